// What all kernels share: bf16 in 16-byte pieces, sums over a warp, and where a sequence's keys and values are.
//
// One source for two compilers: NVRTC makes device code of it, and for tests a C++ compiler makes a library in which
// every CUDA thread is a fiber (emulator/). No CUDA header is included, so NVRTC alone suffices. Instructions without a
// spelling in CUDA C++ are in ptx.cuh and nowhere else.
#pragma once

struct bf16 {
  unsigned short bits;
};

struct alignas(16) Pieces {  // eight bf16
  unsigned int x, y, z, w;
};

#ifdef KNEE_EMULATOR
#include "cuda_emulator.h"
#include "ptx_emulator.h"
#else
typedef unsigned long long ulong64;
#define INFINITY __int_as_float(0x7f800000)
// Shared memory of a block; the emulator poisons it.
#define SHARED(T, name, ...) __shared__ T name __VA_ARGS__
#define DYNAMIC_SHARED(T, name) extern __shared__ __align__(16) T name[]
#include "ptx.cuh"
#endif

#define KERNEL extern "C" __global__ void

// One sequence's part of a batch. Its tokens' keys and values lie in blocks of `1 << shift` slots: entry `table + i` of
// the tables is the first slot of block i. A sequence that lies in one piece has one block that is longer than any
// sequence, so contiguous memory needs no kernel of its own.
struct Seq {
  int row;      // its first row among the queries
  int out;      // where its first row's result goes
  int rows;     // new tokens: the last ones of its context
  int context;  // tokens it has, the new ones included
  int table;
  int shift;
};

__device__ __forceinline__ size_t slot_of(const int* tables, const Seq& s, int position) {
  return (size_t)tables[s.table + (position >> s.shift)] + (position & ((1 << s.shift) - 1));
}

__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((unsigned int)x.bits << 16); }

__device__ __forceinline__ bf16 to_bf16(float x) {
  bf16 r;
  r.bits = (unsigned short)(pack2(x, 0.f) & 0xffffu);
  return r;
}

// Two bf16 of a word: bf16 is the top half of f32, so this is exact.
__device__ __forceinline__ float low_of(unsigned int u) { return __uint_as_float(u << 16); }
__device__ __forceinline__ float high_of(unsigned int u) { return __uint_as_float(u & 0xffff0000u); }

__device__ __forceinline__ void unpack8(const Pieces& v, float (&f)[8]) {
  f[0] = low_of(v.x); f[1] = high_of(v.x); f[2] = low_of(v.y); f[3] = high_of(v.y);
  f[4] = low_of(v.z); f[5] = high_of(v.z); f[6] = low_of(v.w); f[7] = high_of(v.w);
}

__device__ __forceinline__ Pieces pack8(const float (&f)[8]) {
  Pieces v;
  v.x = pack2(f[0], f[1]); v.y = pack2(f[2], f[3]); v.z = pack2(f[4], f[5]); v.w = pack2(f[6], f[7]);
  return v;
}

__device__ __forceinline__ const Pieces* pieces(const bf16* p) { return reinterpret_cast<const Pieces*>(p); }
__device__ __forceinline__ Pieces* pieces(bf16* p) { return reinterpret_cast<Pieces*>(p); }

// The same sum, to the bit, on every lane.
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
