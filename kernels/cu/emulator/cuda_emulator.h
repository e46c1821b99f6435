// CUDA on a processor, for tests: every CUDA thread of a block is a fiber on one OS thread, and blocks run one by one.
//
// A fiber runs until it waits at a barrier, so the order of threads is the emulator's to choose: it has six orders, each
// of which shows other missing barriers. Shared memory is poisoned before each block. Supported is what the kernels use:
// indices, static and dynamic shared memory, __syncthreads, shuffles over whole warps, atomicAdd, and what
// ptx_emulator.h has. It knows nothing of memory consistency, of time, or of how instructions lay out their registers
// beyond what NVIDIA documents: it shows that a kernel is right as written, not that a GPU agrees. x86-64 only.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define SHARED(T, name, ...)     \
  static T name __VA_ARGS__;     \
  static unsigned long name##_of; \
  emulator::fresh(&name, sizeof name, name##_of)
#define DYNAMIC_SHARED(T, name) T* name = (T*)(((uintptr_t)emulator::machine().dynamic.data() + 15) & ~(uintptr_t)15)
typedef unsigned long long ulong64;

struct dim3 {
  unsigned x, y, z;
};

namespace emulator {
enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };
struct Fiber {
  void* stack_pointer;
  void* stack;
  dim3 thread;
  int index;
  State state;
};
struct Copy {
  void* to;
  const void* from;
  bool ok;
};
struct Lane {
  uint64_t value;      // what a shuffle passes
  unsigned words[6];   // what mma and ldmatrix pass
  const void* row;
  std::deque<std::vector<Copy>> copies;  // asynchronous copies by group; the last group is open
};
struct Machine {
  std::vector<Fiber> fibers;
  std::vector<Lane> lanes;
  std::vector<float> products;       // of mma, 16 x 8 for each warp
  std::vector<unsigned> multiplied;  // how many mma each warp has done, and each lane has asked for
  Fiber* current = nullptr;
  void* scheduler = nullptr;
  dim3 grid, block, index;
  std::function<void()> body;
  std::vector<char> dynamic;
  std::string error;
  unsigned long serial = 0;  // of the block
  uint64_t random = 88172645463325252ull;
  int order = 0;
};
inline Machine& machine() {
  static Machine m;
  return m;
}

// Switches stacks: callee-saved registers and the words of floating-point control.
extern "C" void knee_switch(void** save, void* to);
extern "C" void knee_fiber();
asm(R"(.text
.globl knee_switch
.hidden knee_switch
.type knee_switch,@function
knee_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  subq $8,%rsp; stmxcsr (%rsp); fnstcw 4(%rsp)
  movq %rsp,(%rdi); movq %rsi,%rsp
  ldmxcsr (%rsp); fldcw 4(%rsp); addq $8,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
extern "C" void knee_fiber() {
  machine().body();
  machine().current->state = DONE;
  knee_switch(&machine().current->stack_pointer, machine().scheduler);
  __builtin_trap();
}

inline void wait(State at) {
  Machine& m = machine();
  m.current->state = at;
  knee_switch(&m.current->stack_pointer, m.scheduler);
}
inline Lane& own() { return machine().lanes[machine().current->index]; }
inline Lane* warp() { return &machine().lanes[machine().current->index & ~31]; }
inline int lane() { return machine().current->index & 31; }
inline void fresh(void* memory, size_t bytes, unsigned long& of) {
  if (of == machine().serial) return;
  of = machine().serial;
  memset(memory, 0xff, bytes);  // NaN
}
inline uint64_t draw() {
  uint64_t& r = machine().random;
  r ^= r << 13;
  r ^= r >> 7;
  r ^= r << 17;
  return r;
}

inline void prepare(size_t threads) {
  constexpr size_t STACK = 128 << 10;
  Machine& m = machine();
  while (m.fibers.size() < threads) {
    Fiber f{};
    f.stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    m.fibers.push_back(f);
  }
  m.lanes.resize(std::max(m.lanes.size(), (threads + 31) / 32 * 32));
  m.products.assign((threads + 31) / 32 * 128, NAN);
  m.multiplied.assign((threads + 31) / 32 * 33, 0);
  for (size_t i = 0; i < threads; i++) {
    Fiber& f = m.fibers[i];
    f.index = (int)i;
    f.state = READY;
    const unsigned t = (unsigned)i;
    f.thread = {t % m.block.x, t / m.block.x % m.block.y, t / (m.block.x * m.block.y)};
    m.lanes[i].copies.clear();
    uint64_t* sp = (uint64_t*)((char*)f.stack + STACK - 64);
    *--sp = 0;
    *--sp = (uint64_t)knee_fiber;
    for (int r = 0; r < 6; r++) *--sp = 0;
    *--sp = 0x0000037f00001f80ull;
    f.stack_pointer = sp;
  }
}

// Opens barriers at which everybody has arrived; whether there was one.
inline bool open_barriers(size_t threads) {
  Machine& m = machine();
  bool opened = false;
  size_t waiting = 0, done = 0;
  for (size_t w = 0; w < threads; w += 32) {
    const size_t end = std::min(threads, w + 32);
    size_t arrived = 0, live = 0;
    for (size_t i = w; i < end; i++) {
      const State s = m.fibers[i].state;
      arrived += s == AT_WARP_BARRIER;
      live += s != DONE;
      waiting += s == AT_BLOCK_BARRIER;
      done += s == DONE;
    }
    if (arrived == 0 || arrived != live) continue;
    opened = true;
    for (size_t i = w; i < end; i++)
      if (m.fibers[i].state == AT_WARP_BARRIER) m.fibers[i].state = READY;
  }
  if (waiting > 0 && waiting + done == threads) {
    opened = true;
    for (size_t i = 0; i < threads; i++)
      if (m.fibers[i].state == AT_BLOCK_BARRIER) m.fibers[i].state = READY;
  }
  return opened;
}

// Orders 0 to 2 go over all threads in turn (forwards, backwards, shuffled): warps stay close to one another. Orders 3
// to 5 run one warp (the first, the last, any) as far as it gets: a missing block barrier cannot hide.
inline void run_block() {
  Machine& m = machine();
  const size_t threads = (size_t)m.block.x * m.block.y * m.block.z, warps = (threads + 31) / 32;
  prepare(threads);
  m.serial++;
  std::vector<int> order(threads);
  for (size_t i = 0; i < threads; i++) order[i] = (int)i;
  if (m.order == 1) std::reverse(order.begin(), order.end());
  for (;;) {
    if (m.order == 2)
      for (size_t i = threads - 1; i > 0; i--) std::swap(order[i], order[draw() % (i + 1)]);
    size_t only = ~size_t(0);
    const size_t start = m.order == 5 ? draw() % warps : 0;
    for (size_t k = 0; m.order >= 3 && k < warps && only == ~size_t(0); k++) {
      const size_t w = m.order == 4 ? warps - 1 - k : (start + k) % warps;
      for (size_t i = w * 32; i < std::min(threads, w * 32 + 32); i++)
        if (m.fibers[i].state == READY) only = w;
    }
    bool ran = false;
    const bool one = only != ~size_t(0);
    const size_t from = one ? only * 32 : 0, to = one ? std::min(threads, only * 32 + 32) : threads;
    for (size_t k = from; k < to; k++) {
      const int i = one ? (int)k : order[k];
      if (m.fibers[i].state != READY) continue;
      ran = true;
      m.current = &m.fibers[i];
      knee_switch(&m.scheduler, m.current->stack_pointer);
    }
    const bool opened = open_barriers(threads);
    size_t done = 0;
    for (size_t i = 0; i < threads; i++) done += m.fibers[i].state == DONE;
    if (done == threads || !m.error.empty()) return;
    if (!ran && !opened) {
      m.error = "deadlock: threads wait at different barriers";
      return;
    }
  }
}

typedef void (*Launch)(void** arguments);
template <class... P, size_t... I>
inline void run_grid(void (*kernel)(P...), void** a, std::index_sequence<I...>) {
  Machine& m = machine();
  m.body = [=] { kernel(*(P*)a[I]...); };
  for (unsigned z = 0; z < m.grid.z; z++)
    for (unsigned y = 0; y < m.grid.y; y++)
      for (unsigned x = 0; x < m.grid.x; x++) {
        m.index = {x, y, z};
        std::fill(m.dynamic.begin(), m.dynamic.end(), (char)0xff);
        run_block();
        if (!m.error.empty()) return;
      }
}
template <class... P>
inline void run_kernel(void (*kernel)(P...), void** arguments) {
  run_grid(kernel, arguments, std::index_sequence_for<P...>{});
}
struct Entry {
  const char* name;
  Launch launch;
};
}  // namespace emulator

#define threadIdx (emulator::machine().current->thread)
#define blockIdx (emulator::machine().index)
#define blockDim (emulator::machine().block)
#define gridDim (emulator::machine().grid)

inline void __syncthreads() { emulator::wait(emulator::AT_BLOCK_BARRIER); }
template <class T>
inline T __shfl_xor_sync(unsigned mask, T v, int o) {
  static_assert(sizeof(T) <= 8, "shuffles pass at most 8 bytes");
  if (mask != 0xffffffffu) emulator::machine().error = "a shuffle over less than a warp";
  memcpy(&emulator::own().value, &v, sizeof v);
  emulator::wait(emulator::AT_WARP_BARRIER);
  T r;
  memcpy(&r, &emulator::warp()[emulator::lane() ^ o].value, sizeof r);
  emulator::wait(emulator::AT_WARP_BARRIER);
  return r;
}
template <class T>
inline T atomicAdd(T* p, T v) {
  const T old = *p;
  *p = old + v;
  return old;
}
using std::max;
using std::min;
inline float __uint_as_float(unsigned u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline unsigned __float_as_uint(float f) {
  unsigned u;
  memcpy(&u, &f, 4);
  return u;
}
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
