// Attention of sequences with one new token each over paged keys and values, each context split over several blocks
// (flash decoding, Dao et al. 2023): partial results first, then their combination.
#include "common.cuh"

// Puts the results of a block's warps together, each with a softmax of its own: `sums` [WARPS][GROUP][DIM] and `stats`
// [WARPS][GROUP][2] (greatest score, sum), which all warps have written.
template <int DIM, int GROUP>
__device__ __forceinline__ void combine_warps(const float* sums, const float* stats, float* partial,
                                              float* partial_stats, int heads, int first_head, int splits) {
  constexpr int WARPS = 4;
  for (int e = threadIdx.x; e < GROUP * DIM; e += WARPS * 32) {
    const int g = e / DIM, d = e % DIM;
    float now = -INFINITY, all = 0.f, out = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) now = fmaxf(now, stats[(w * GROUP + g) * 2]);
    const float reference = now == -INFINITY ? 0.f : now;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float shrink = exp2f(stats[(w * GROUP + g) * 2] - reference);
      all += stats[(w * GROUP + g) * 2 + 1] * shrink;
      out += sums[(w * GROUP + g) * DIM + d] * shrink;
    }
    const size_t o = ((size_t)blockIdx.z * heads + first_head + g) * splits + blockIdx.y;
    partial[o * DIM + d] = out;
    if (d == 0) {
      partial_stats[o * 2] = now;
      partial_stats[o * 2 + 1] = all;
    }
  }
}

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
  SHARED(float, sums, [WARPS * GROUP * DIM]);
  SHARED(float, stats, [WARPS * GROUP * 2]);
#pragma unroll
  for (int g = 0; g < GROUP; g++) {
    if (sub == 0) {
#pragma unroll
      for (int i = 0; i < 8; i++) sums[(warp * GROUP + g) * DIM + element + i] = sum[g][i];
    }
    if (lane == 0) {
      stats[(warp * GROUP + g) * 2] = most[g];
      stats[(warp * GROUP + g) * 2 + 1] = total[g];
    }
  }
  __syncthreads();  // all warps have written
  combine_warps<DIM, GROUP>(sums, stats, partial, partial_stats, heads, first_head, splits);
}

// The same for eight query heads that share a KV head, on tensor cores: the heads are the first eight rows of a tile of
// 16 queries, whose others are zero. A warp takes 16 of each 64 tokens and has a softmax of its own; the next 64 are
// loaded while these are computed.
// grid as above, block = 128, dynamic shared memory = 4 * 64 * DIM * 2 bytes
template <int DIM>
__device__ __forceinline__ void decode_body_of_8(
    const bf16* __restrict__ queries, const bf16* __restrict__ keys, const bf16* __restrict__ values,
    const Seq* __restrict__ seqs, const int* __restrict__ tables, float* __restrict__ partial,
    float* __restrict__ partial_stats, int kv_heads, float scale_log2, int window, int split) {
  constexpr int GROUP = 8, WARPS = 4, N = 16 * WARPS, CHUNKS = DIM / 8;
  const int heads = gridDim.x * GROUP, splits = gridDim.y;
  const int first_head = blockIdx.x * GROUP, kv = first_head / (heads / kv_heads);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const Seq seq = seqs[blockIdx.z];
  const int seen = window > 0 ? max(0, seq.context - window) : 0;
  const int from = max(seen, (int)blockIdx.y * split), to = min(seq.context, (int)(blockIdx.y + 1) * split);
  DYNAMIC_SHARED(bf16, memory);
  bf16 *sk = memory, *sv = memory + 2 * N * DIM;
  auto at = [](int row, int piece) {  // swizzled as in prefill.cu
    const int turn = CHUNKS >= 8 ? row & 7 : (row >> 1) & (CHUNKS - 1);
    return row * DIM + (piece ^ turn) * 8;
  };
  auto load = [&](int base, int stage) {
    for (int i = threadIdx.x; i < N * CHUNKS; i += 128) {
      const int r = i / CHUNKS, c = i % CHUNKS, position = base + r;
      const bool ok = position < to;
      const size_t source = (slot_of(tables, seq, ok ? position : 0) * kv_heads + kv) * DIM + c * 8;
      copy_async16(sk + stage * N * DIM + at(r, c), keys + source, ok);
      copy_async16(sv + stage * N * DIM + at(r, c), values + source, ok);
    }
    copy_async_commit();
  };
  if (from < to) load(from, 0);
  // This lane's queries are those of head lane / 4, elements 2 * (lane % 4) and the next of every eight.
  const bf16* own = queries + ((size_t)seq.row * heads + first_head + (lane >> 2)) * DIM + 2 * (lane & 3);
  unsigned q[DIM / 8];
#pragma unroll
  for (int i = 0; i < DIM / 8; i++) q[i] = *reinterpret_cast<const unsigned*>(own + i * 8);
  float sum[DIM / 8][4], most = -INFINITY, total = 0.f;
#pragma unroll
  for (int i = 0; i < DIM / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) sum[i][j] = 0.f;
  int stage = 0;
  for (int base = from; base < to; base += N, stage ^= 1) {
    if (base + N < to) {
      load(base + N, stage ^ 1);
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    __syncthreads();  // everybody's copies have arrived
    const bf16 *k = sk + stage * N * DIM, *v = sv + stage * N * DIM;
    float score[2][4] = {{0.f, 0.f, 0.f, 0.f}, {0.f, 0.f, 0.f, 0.f}};
#pragma unroll
    for (int d = 0; d < DIM / 16; d++) {
      const unsigned a[4] = {q[2 * d], 0u, q[2 * d + 1], 0u};
      unsigned r[4];
      load_matrices(r, k + at(warp * 16 + (lane & 7) + ((lane >> 4) << 3), d * 2 + ((lane >> 3) & 1)));
      const unsigned b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
      mma_16816(score[0], a, b0);
      mma_16816(score[1], a, b1);
    }
    float now = most;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int key = base + warp * 16 + n * 8 + 2 * (lane & 3) + j;
        score[n][j] = key < to ? score[n][j] * scale_log2 : -INFINITY;
        now = fmaxf(now, score[n][j]);
      }
    now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
    now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
    const float reference = now == -INFINITY ? 0.f : now;  // warps may have seen no token yet
    const float shrink = exp2f(most - reference);
    most = now;
    total *= shrink;
#pragma unroll
    for (int i = 0; i < DIM / 8; i++) {
      sum[i][0] *= shrink;
      sum[i][1] *= shrink;
    }
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        score[n][j] = exp2f(score[n][j] - reference);
        total += score[n][j];
      }
    const unsigned a[4] = {pack2(score[0][0], score[0][1]), 0u, pack2(score[1][0], score[1][1]), 0u};
#pragma unroll
    for (int d = 0; d < DIM / 16; d++) {
      unsigned r[4];
      load_matrices_transposed(r, v + at(warp * 16 + (lane & 15), d * 2 + (lane >> 4)));
      const unsigned b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
      mma_16816(sum[2 * d], a, b0);
      mma_16816(sum[2 * d + 1], a, b1);
    }
    __syncthreads();  // the next round loads over these tokens
  }
  total += __shfl_xor_sync(0xffffffffu, total, 1);
  total += __shfl_xor_sync(0xffffffffu, total, 2);
  float *sums = reinterpret_cast<float*>(memory), *stats = sums + WARPS * GROUP * DIM;
  const int g = lane >> 2;
#pragma unroll
  for (int i = 0; i < DIM / 8; i++) {
    sums[(warp * GROUP + g) * DIM + i * 8 + 2 * (lane & 3)] = sum[i][0];
    sums[(warp * GROUP + g) * DIM + i * 8 + 2 * (lane & 3) + 1] = sum[i][1];
  }
  if ((lane & 3) == 0) {
    stats[(warp * GROUP + g) * 2] = most;
    stats[(warp * GROUP + g) * 2 + 1] = total;
  }
  __syncthreads();
  combine_warps<DIM, GROUP>(sums, stats, partial, partial_stats, heads, first_head, splits);
}

#define DECODE(DIM, GROUP)                                                                                       \
  KERNEL __launch_bounds__(128) decode_attention_d##DIM##_g##GROUP(                                              \
      const bf16* queries, const bf16* keys, const bf16* values, const Seq* seqs, const int* tables,             \
      float* partial, float* partial_stats, int kv_heads, float scale_log2, int window, int split) {             \
    decode_body<DIM, GROUP>(queries, keys, values, seqs, tables, partial, partial_stats, kv_heads, scale_log2,   \
                            window, split);                                                                      \
  }
#define DECODE_OF_8(DIM)                                                                                         \
  KERNEL __launch_bounds__(128) decode_attention_d##DIM##_g8(                                                    \
      const bf16* queries, const bf16* keys, const bf16* values, const Seq* seqs, const int* tables,             \
      float* partial, float* partial_stats, int kv_heads, float scale_log2, int window, int split) {             \
    decode_body_of_8<DIM>(queries, keys, values, seqs, tables, partial, partial_stats, kv_heads, scale_log2,     \
                          window, split);                                                                        \
  }
DECODE(32, 1) DECODE(32, 2) DECODE(32, 4) DECODE_OF_8(32)
DECODE(64, 1) DECODE(64, 2) DECODE(64, 4) DECODE_OF_8(64)
DECODE(128, 1) DECODE(128, 2) DECODE(128, 4) DECODE_OF_8(128)

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
