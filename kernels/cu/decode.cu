// Attention of sequences with one new token each over paged keys and values, each context split over several blocks
// (flash decoding, Dao et al. 2023): partial results first, then their combination.
#include "common.cuh"

// Partial results of `split` tokens for GROUP query heads that share a KV head.
//   queries       [rows, heads, DIM]           keys, values [slots, kv_heads, DIM]
//   partial       [seqs, heads, splits, DIM]   unnormalised
//   partial_stats [seqs, heads, splits, 2]     greatest score (base 2), sum
// grid = (heads / GROUP, splits, seqs), block = 128. A lane loads 16 bytes: DIM / 8 lanes hold one token's row.
template <int DIM, int GROUP>
__device__ __forceinline__ void decode_body(
    const bf16* __restrict__ queries, const bf16* __restrict__ keys, const bf16* __restrict__ values,
    const Seq* __restrict__ seqs, const int* __restrict__ tables, float* __restrict__ partial,
    float* __restrict__ partial_stats, int kv_heads, float scale_log2, int window, int split) {
  constexpr int WARPS = 4;
  constexpr int LANES = DIM / 8;    // per row
  constexpr int ROWS = 32 / LANES;  // per warp and step
  constexpr int FLIGHT = 4;         // independent loads of keys under way per lane, and of values
  const int heads = gridDim.x * GROUP, splits = gridDim.y;
  const int first_head = blockIdx.x * GROUP, kv = first_head / (heads / kv_heads);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int sub = lane / LANES, element = lane % LANES * 8;
  const Seq seq = seqs[blockIdx.z];
  const int seen = window > 0 ? max(0, seq.context - window) : 0;
  const int from = max(seen, (int)blockIdx.y * split), to = min(seq.context, (int)(blockIdx.y + 1) * split);

  float q[GROUP][8], sum[GROUP][8], most[GROUP], total[GROUP];
#pragma unroll
  for (int g = 0; g < GROUP; g++) {
    unpack8(*pieces(queries + ((size_t)seq.row * heads + first_head + g) * DIM + element), q[g]);
    most[g] = -INFINITY;
    total[g] = 0.f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      sum[g][i] = 0.f;
      q[g][i] *= scale_log2;
    }
  }
  for (int base = from + warp * ROWS * FLIGHT; base < to; base += WARPS * ROWS * FLIGHT) {
    Pieces k[FLIGHT], v[FLIGHT];
#pragma unroll
    for (int u = 0; u < FLIGHT; u++) {
      const int position = min(base + u * ROWS + sub, to - 1);
      const size_t at = (slot_of(tables, seq, position) * kv_heads + kv) * DIM + element;
      k[u] = *pieces(keys + at);
      v[u] = *pieces(values + at);
    }
    float score[FLIGHT][GROUP];
#pragma unroll
    for (int u = 0; u < FLIGHT; u++) {
      float f[8];
      unpack8(k[u], f);
      const bool in = base + u * ROWS + sub < to;
#pragma unroll
      for (int g = 0; g < GROUP; g++) {
        float dot = 0.f;
#pragma unroll
        for (int i = 0; i < 8; i++) dot = fmaf(q[g][i], f[i], dot);
#pragma unroll
        for (int o = LANES / 2; o > 0; o >>= 1) dot += __shfl_xor_sync(0xffffffffu, dot, o);
        score[u][g] = in ? dot : -INFINITY;
      }
    }
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
      float now = most[g];
#pragma unroll
      for (int u = 0; u < FLIGHT; u++) now = fmaxf(now, score[u][g]);
      const float reference = now == -INFINITY ? 0.f : now;  // lanes may have seen no token yet
      const float shrink = exp2f(most[g] - reference);
      most[g] = now;
      total[g] *= shrink;
#pragma unroll
      for (int i = 0; i < 8; i++) sum[g][i] *= shrink;
#pragma unroll
      for (int u = 0; u < FLIGHT; u++) {
        score[u][g] = exp2f(score[u][g] - reference);
        total[g] += score[u][g];
      }
    }
#pragma unroll
    for (int u = 0; u < FLIGHT; u++) {
      float f[8];
      unpack8(v[u], f);
#pragma unroll
      for (int g = 0; g < GROUP; g++)
#pragma unroll
        for (int i = 0; i < 8; i++) sum[g][i] = fmaf(score[u][g], f[i], sum[g][i]);
    }
  }
  // The lanes of one element, of all sub-rows of a warp, add up first; then warps do, through shared memory.
#pragma unroll
  for (int g = 0; g < GROUP; g++) {
    float now = most[g];
#pragma unroll
    for (int o = LANES; o < 32; o <<= 1) now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, o));
    const float shrink = exp2f(most[g] - (now == -INFINITY ? 0.f : now));
    most[g] = now;
    total[g] *= shrink;
#pragma unroll
    for (int o = LANES; o < 32; o <<= 1) total[g] += __shfl_xor_sync(0xffffffffu, total[g], o);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      sum[g][i] *= shrink;
#pragma unroll
      for (int o = LANES; o < 32; o <<= 1) sum[g][i] += __shfl_xor_sync(0xffffffffu, sum[g][i], o);
    }
  }
  SHARED(float, sums, [WARPS][GROUP][DIM]);
  SHARED(float, stats, [WARPS][GROUP][2]);
#pragma unroll
  for (int g = 0; g < GROUP; g++) {
    if (sub == 0) {
#pragma unroll
      for (int i = 0; i < 8; i++) sums[warp][g][element + i] = sum[g][i];
    }
    if (lane == 0) {
      stats[warp][g][0] = most[g];
      stats[warp][g][1] = total[g];
    }
  }
  __syncthreads();
  for (int e = threadIdx.x; e < GROUP * DIM; e += WARPS * 32) {
    const int g = e / DIM, d = e % DIM;
    float now = -INFINITY, all = 0.f, out = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) now = fmaxf(now, stats[w][g][0]);
    const float reference = now == -INFINITY ? 0.f : now;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float shrink = exp2f(stats[w][g][0] - reference);
      all += stats[w][g][1] * shrink;
      out += sums[w][g][d] * shrink;
    }
    const size_t o = ((size_t)blockIdx.z * heads + first_head + g) * splits + blockIdx.y;
    partial[o * DIM + d] = out;
    if (d == 0) {
      partial_stats[o * 2] = now;
      partial_stats[o * 2 + 1] = all;
    }
  }
}

#define DECODE(DIM, GROUP)                                                                                       \
  KERNEL __launch_bounds__(128) decode_attention_d##DIM##_g##GROUP(                                              \
      const bf16* queries, const bf16* keys, const bf16* values, const Seq* seqs, const int* tables,             \
      float* partial, float* partial_stats, int kv_heads, float scale_log2, int window, int split) {             \
    decode_body<DIM, GROUP>(queries, keys, values, seqs, tables, partial, partial_stats, kv_heads, scale_log2,   \
                            window, split);                                                                      \
  }
DECODE(32, 1) DECODE(32, 2) DECODE(32, 4) DECODE(32, 8)
DECODE(64, 1) DECODE(64, 2) DECODE(64, 4) DECODE(64, 8)
DECODE(128, 1) DECODE(128, 2) DECODE(128, 4) DECODE(128, 8)

// out [rows, heads, dim];  grid = (heads, seqs), block = dim
KERNEL __launch_bounds__(128) decode_combine(const float* __restrict__ partial, const float* __restrict__ partial_stats,
                                             const Seq* __restrict__ seqs, bf16* __restrict__ out, int splits) {
  const int heads = gridDim.x, dim = blockDim.x;
  const size_t at = (size_t)blockIdx.y * heads + blockIdx.x;
  const float* stats = partial_stats + at * splits * 2;
  float most = -INFINITY, total = 0.f, sum = 0.f;
  for (int s = 0; s < splits; s++) most = fmaxf(most, stats[2 * s]);
  for (int s = 0; s < splits; s++) {
    const float shrink = exp2f(stats[2 * s] - most);  // every sequence has a token, so `most` is finite
    total += stats[2 * s + 1] * shrink;
    sum += partial[(at * splits + s) * dim + threadIdx.x] * shrink;
  }
  out[((size_t)seqs[blockIdx.y].out * heads + blockIdx.x) * dim + threadIdx.x] = to_bf16(sum / total);
}
