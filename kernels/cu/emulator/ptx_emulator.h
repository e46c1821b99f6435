// What ptx.cuh's instructions do, by NVIDIA's documentation of them (PTX ISA: fragments of mma.m16n8k16, ldmatrix,
// cp.async).
#pragma once

inline unsigned int bf16_bits(float f) {  // to nearest even
  const unsigned u = __float_as_uint(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (u + 0x7fffu + (u >> 16 & 1)) >> 16;
}
inline unsigned int pack2(float low, float high) { return bf16_bits(low) | bf16_bits(high) << 16; }

// Row g of a is in the words of lanes 4g..4g+3, column n of b in those of lanes 4n..4n+3. The warp's first lane to get
// here multiplies for all.
inline void mma_16816(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulator::Machine& m = emulator::machine();
  const int lane = emulator::lane(), g = lane >> 2, t = lane & 3, warp = m.current->index >> 5;
  emulator::Lane* lanes = emulator::warp();
  unsigned* words = lanes[lane].words;
  for (int i = 0; i < 4; i++) words[i] = a[i];
  words[4] = b[0];
  words[5] = b[1];
  emulator::wait(emulator::AT_WARP_BARRIER);
  float* product = &m.products[warp * 128];
  unsigned* done = &m.multiplied[warp * 33];
  if (done[1 + lane]++ == done[0]) {
    done[0]++;
    float x[16][16], y[16][8];  // by row, feature; by feature, column
    auto half = [](unsigned w, int high) { return __uint_as_float(high ? w & 0xffff0000u : w << 16); };
    for (int r = 0; r < 16; r++)
      for (int k = 0; k < 16; k++)
        x[r][k] = half(lanes[r % 8 * 4 + k % 8 / 2].words[r / 8 + k / 8 * 2], k & 1);
    for (int n = 0; n < 8; n++)
      for (int k = 0; k < 16; k++) y[k][n] = half(lanes[n * 4 + k % 8 / 2].words[4 + k / 8], k & 1);
    for (int r = 0; r < 16; r++) {
      float sum[8] = {};
      for (int k = 0; k < 16; k++)
        for (int n = 0; n < 8; n++) sum[n] += x[r][k] * y[k][n];
      memcpy(product + r * 8, sum, sizeof sum);
    }
  }
  for (int i = 0; i < 4; i++) c[i] += product[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  emulator::wait(emulator::AT_WARP_BARRIER);
}

template <bool TRANSPOSED>
inline void load_matrices_(unsigned (&r)[4], const void* p) {
  emulator::own().row = p;
  emulator::wait(emulator::AT_WARP_BARRIER);
  const emulator::Lane* lanes = emulator::warp();
  const int g = emulator::lane() >> 2, t = emulator::lane() & 3;
  for (int m = 0; m < 4; m++) {
    unsigned word = 0;
    for (int h = 0; h < 2; h++) {
      const int row = TRANSPOSED ? 2 * t + h : g, col = TRANSPOSED ? g : 2 * t + h;
      word |= (unsigned)((const uint16_t*)lanes[m * 8 + row].row)[col] << 16 * h;
    }
    r[m] = word;
  }
  emulator::wait(emulator::AT_WARP_BARRIER);
}
inline void load_matrices(unsigned (&r)[4], const void* p) { load_matrices_<false>(r, p); }
inline void load_matrices_transposed(unsigned (&r)[4], const void* p) { load_matrices_<true>(r, p); }

// A copy may land at once or as late as the wait for it: odd orders copy at once, which shows tiles overwritten too
// early, even ones at the wait, which shows waits that are missing.
inline void make(const emulator::Copy& c) {
  if (c.ok) memcpy(c.to, c.from, 16);
  else memset(c.to, 0, 16);
}
inline void copy_async16(void* to, const void* from, bool ok) {
  const emulator::Copy copy = {to, from, ok};
  if (emulator::machine().order & 1) return make(copy);
  auto& groups = emulator::own().copies;
  if (groups.empty()) groups.emplace_back();
  groups.back().push_back(copy);
}
inline void copy_async_commit() {
  auto& groups = emulator::own().copies;
  if (groups.empty()) groups.emplace_back();
  groups.emplace_back();
}
template <int N>
inline void copy_async_wait() {
  auto& groups = emulator::own().copies;
  for (; (int)groups.size() - 1 > N; groups.pop_front())
    for (const emulator::Copy& c : groups.front()) make(c);
}
