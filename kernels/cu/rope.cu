// Between the projection and attention: biases, per-head norms, the rotary embedding, and keys and values into their slots.
#include "common.cuh"

// qkv [rows, (heads + 2 kv_heads) * dim]: queries go rotated to `queries` [rows, heads, dim], keys rotated and values as
// they are to slots[row] of `keys` and `values` [slots, kv_heads, dim]. Element i turns with element i + dim / 2.
//   bias     one per column of qkv, or none              (Qwen 2)
//   q_norm, k_norm  [dim], RMS norms of single heads, or none    (Qwen 3)
//   turns    [positions, dim / 2, 2]: cosine and sine
// grid = (rows, ceil(all heads / 4)), block = 128: a warp per head. dim is even and at most 256.
KERNEL __launch_bounds__(128) rope_kv_write(
    const bf16* __restrict__ qkv, const bf16* __restrict__ bias, const bf16* __restrict__ q_norm,
    const bf16* __restrict__ k_norm, float epsilon, const float* __restrict__ turns,
    const int* __restrict__ positions, const int* __restrict__ slots, bf16* __restrict__ queries,
    bf16* __restrict__ keys, bf16* __restrict__ values, int heads, int kv_heads, int dim) {
  const int row = blockIdx.x, head = blockIdx.y * 4 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  const int all = heads + 2 * kv_heads, half = dim / 2;
  if (head >= all) return;
  const bf16* source = qkv + ((size_t)row * all + head) * dim;
  float low[4], high[4], squares = 0.f;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int i = lane + 32 * j;
    low[j] = high[j] = 0.f;
    if (i < half) {
      low[j] = to_float(source[i]);
      high[j] = to_float(source[i + half]);
      if (bias) {
        low[j] += to_float(bias[head * dim + i]);
        high[j] += to_float(bias[head * dim + i + half]);
      }
      squares += low[j] * low[j] + high[j] * high[j];
    }
  }
  const bool query = head < heads, value = head >= heads + kv_heads;
  const bf16* norm = query ? q_norm : k_norm;
  if (norm && !value) {
    const float scale = rsqrtf(warp_sum(squares) / dim + epsilon);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int i = lane + 32 * j;
      if (i < half) {
        low[j] *= scale * to_float(norm[i]);
        high[j] *= scale * to_float(norm[i + half]);
      }
    }
  }
  bf16* target;
  if (query) {
    target = queries + ((size_t)row * heads + head) * dim;
  } else {
    const int kv = value ? head - heads - kv_heads : head - heads;
    target = (value ? values : keys) + ((size_t)slots[row] * kv_heads + kv) * dim;
  }
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int i = lane + 32 * j;
    if (i < half) {
      float a = low[j], b = high[j];
      if (!value) {
        const float* turn = turns + ((size_t)positions[row] * half + i) * 2;
        const float c = turn[0], s = turn[1];
        a = low[j] * c - high[j] * s;
        b = high[j] * c + low[j] * s;
      }
      target[i] = to_bf16(a);
      target[i + half] = to_bf16(b);
    }
  }
}
