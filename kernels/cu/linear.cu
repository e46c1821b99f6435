// y = x * weight^T. Two ways: for a few rows, dot products that read each weight once (gemv), and tiles on tensor cores
// (gemm) for any number: its sums run over features in the same order whatever the number of rows.
//   x [rows, features], weight [outputs, features], y [rows, outputs]; features are a multiple of 8
#include "common.cuh"

__device__ __forceinline__ void put(float* y, float v) { *y = v; }
__device__ __forceinline__ void put(bf16* y, float v) { *y = to_bf16(v); }

// ROWS rows of x, two outputs per warp.  grid = ceil(outputs / 8), block = 128
template <int ROWS, class T>
__device__ __forceinline__ void gemv_body(const bf16* __restrict__ x, const bf16* __restrict__ weight,
                                          T* __restrict__ y, int features, int outputs) {
  constexpr int EACH = 2;
  const int lane = threadIdx.x & 31, first = (blockIdx.x * 4 + (threadIdx.x >> 5)) * EACH;
  if (first >= outputs) return;
  float sum[EACH][ROWS];
#pragma unroll
  for (int e = 0; e < EACH; e++)
#pragma unroll
    for (int r = 0; r < ROWS; r++) sum[e][r] = 0.f;
  for (int k = lane * 8; k < features; k += 256) {
    float w[EACH][8];
#pragma unroll
    for (int e = 0; e < EACH; e++)
      unpack8(*pieces(weight + (size_t)min(first + e, outputs - 1) * features + k), w[e]);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      float f[8];
      unpack8(*pieces(x + (size_t)r * features + k), f);
#pragma unroll
      for (int e = 0; e < EACH; e++)
#pragma unroll
        for (int i = 0; i < 8; i++) sum[e][r] = fmaf(w[e][i], f[i], sum[e][r]);
    }
  }
#pragma unroll
  for (int e = 0; e < EACH; e++)
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const float all = warp_sum(sum[e][r]);
      if (lane == 0 && first + e < outputs) put(y + (size_t)r * outputs + first + e, all);
    }
}

#define GEMV(ROWS)                                                                                                \
  KERNEL __launch_bounds__(128) gemv_bf16_m##ROWS(const bf16* x, const bf16* w, bf16* y, int k, int n) {          \
    gemv_body<ROWS>(x, w, y, k, n);                                                                               \
  }                                                                                                               \
  KERNEL __launch_bounds__(128) gemv_f32_m##ROWS(const bf16* x, const bf16* w, float* y, int k, int n) {          \
    gemv_body<ROWS>(x, w, y, k, n);                                                                               \
  }
GEMV(1) GEMV(2) GEMV(4) GEMV(8)

// grid = (ceil(outputs / 64), ceil(rows / 64)), block = 128: a warp has 16 of the rows
template <class T>
__device__ __forceinline__ void gemm_body(const bf16* __restrict__ x, const bf16* __restrict__ weight,
                                          T* __restrict__ y, int rows, int features, int outputs) {
  constexpr int M = 64, N = 64, K = 64;
  SHARED(Pieces, sx, [2][M * K / 8]);
  SHARED(Pieces, sw, [2][N * K / 8]);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int n0 = blockIdx.x * N, m0 = blockIdx.y * M;
  auto at = [](int row, int piece) { return row * (K / 8) + (piece ^ (row & 7)); };
  auto load = [&](int step, int stage) {
    for (int i = threadIdx.x; i < M * K / 8; i += 128) {
      const int r = i / (K / 8), c = i % (K / 8), k = step * K + c * 8;
      const bool okx = m0 + r < rows && k < features, okw = n0 + r < outputs && k < features;
      copy_async16(&sx[stage][at(r, c)], x + (okx ? (size_t)(m0 + r) * features + k : 0), okx);
      copy_async16(&sw[stage][at(r, c)], weight + (okw ? (size_t)(n0 + r) * features + k : 0), okw);
    }
    copy_async_commit();
  };
  const bool idle = m0 + warp * 16 >= rows;
  float sum[N / 8][4];
#pragma unroll
  for (int i = 0; i < N / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) sum[i][j] = 0.f;
  const int steps = (features + K - 1) / K;
  load(0, 0);
  for (int step = 0; step < steps; step++) {
    if (step + 1 < steps) {
      load(step + 1, (step + 1) & 1);
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    __syncthreads();
    if (!idle) {
#pragma unroll
      for (int k = 0; k < K / 16; k++) {
        unsigned a[4];
        load_matrices(a, &sx[step & 1][at(warp * 16 + (lane & 15), k * 2 + (lane >> 4))]);
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
          unsigned r[4];
          load_matrices(r, &sw[step & 1][at(n * 16 + (lane & 7) + ((lane >> 4) << 3), k * 2 + ((lane >> 3) & 1))]);
          const unsigned b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
          mma_16816(sum[2 * n], a, b0);
          mma_16816(sum[2 * n + 1], a, b1);
        }
      }
    }
    __syncthreads();  // the next round loads over this one
  }
#pragma unroll
  for (int n = 0; n < N / 8; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int row = m0 + warp * 16 + (lane >> 2) + (j >> 1) * 8, col = n0 + n * 8 + 2 * (lane & 3) + (j & 1);
      if (row < rows && col < outputs) put(y + (size_t)row * outputs + col, sum[n][j]);
    }
}

KERNEL __launch_bounds__(128) gemm_bf16(const bf16* x, const bf16* w, bf16* y, int m, int k, int n) {
  gemm_body(x, w, y, m, k, n);
}
KERNEL __launch_bounds__(128) gemm_f32(const bf16* x, const bf16* w, float* y, int m, int k, int n) {
  gemm_body(x, w, y, m, k, n);
}
