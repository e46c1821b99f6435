// Attention of chunks of new tokens over paged keys and values (FlashAttention 2, Dao 2023): tensor cores, tiles of 64
// queries by 64 keys, the next tile of keys loaded while one is computed.
//
// Keys are cut into tiles by absolute position, and a tile that a row may not see leaves that row as it was, so a row's
// result is the same to the bit wherever chunks begin and end: a chunk of one token is a decode.
#include "common.cuh"

//   queries, out [rows, heads, DIM]     keys, values [slots, kv_heads, DIM]
//   tiles  pairs: which sequence, which 64 of its rows
// grid = (tiles, heads), block = 128, dynamic shared memory = 5 * 64 * DIM * 2 bytes
template <int DIM>
__device__ __forceinline__ void prefill_body(
    const bf16* __restrict__ queries, const bf16* __restrict__ keys, const bf16* __restrict__ values,
    bf16* __restrict__ out, const Seq* __restrict__ seqs, const int* __restrict__ tables,
    const int* __restrict__ tiles, int kv_heads, float scale_log2, int window) {
  constexpr int M = 64, N = 64, CHUNKS = DIM / 8;  // a row is so many pieces of 16 bytes
  const int head = blockIdx.y, heads = gridDim.y, kv = head / (heads / kv_heads);
  const Seq seq = seqs[tiles[2 * blockIdx.x]];
  const int first = tiles[2 * blockIdx.x + 1] * M, history = seq.context - seq.rows;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  DYNAMIC_SHARED(bf16, memory);
  bf16 *sq = memory, *sk = memory + M * DIM, *sv = sk + 2 * N * DIM;
  // Pieces are swizzled so that eight rows of one column lie in different banks.
  auto at = [](int row, int piece) {
    const int turn = CHUNKS >= 8 ? row & 7 : (row >> 1) & (CHUNKS - 1);
    return row * DIM + (piece ^ turn) * 8;
  };
  for (int i = threadIdx.x; i < M * CHUNKS; i += 128) {
    const int r = i / CHUNKS, c = i % CHUNKS;
    const bool ok = first + r < seq.rows;
    const bf16* from = queries + ((size_t)(seq.row + (ok ? first + r : 0)) * heads + head) * DIM + c * 8;
    copy_async16(sq + at(r, c), from, ok);
  }
  auto load = [&](int tile, int stage) {
    for (int i = threadIdx.x; i < N * CHUNKS; i += 128) {
      const int r = i / CHUNKS, c = i % CHUNKS, position = tile * N + r;
      const bool ok = position < seq.context;
      const size_t from = (slot_of(tables, seq, ok ? position : 0) * kv_heads + kv) * DIM + c * 8;
      copy_async16(sk + stage * N * DIM + at(r, c), keys + from, ok);
      copy_async16(sv + stage * N * DIM + at(r, c), values + from, ok);
    }
    copy_async_commit();
  };
  const int seen = window > 0 ? max(0, history + first - window + 1) : 0;
  const int begin = seen / N, end = (min(seq.context, history + first + M) + N - 1) / N;
  const bool idle = first + warp * 16 >= seq.rows;  // a warp without rows only helps to load
  float sum[DIM / 8][4], most[2] = {-INFINITY, -INFINITY}, total[2] = {0.f, 0.f};
#pragma unroll
  for (int i = 0; i < DIM / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) sum[i][j] = 0.f;
  load(begin, begin & 1);
  for (int tile = begin; tile < end; tile++) {
    if (tile + 1 < end) {
      load(tile + 1, (tile + 1) & 1);
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    __syncthreads();
    if (!idle) {
      const bf16 *k = sk + (tile & 1) * N * DIM, *v = sv + (tile & 1) * N * DIM;
      float score[N / 8][4];
#pragma unroll
      for (int i = 0; i < N / 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) score[i][j] = 0.f;
#pragma unroll
      for (int d = 0; d < DIM / 16; d++) {
        unsigned a[4];
        load_matrices(a, sq + at(warp * 16 + (lane & 15), d * 2 + (lane >> 4)));
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
          unsigned r[4];
          load_matrices(r, k + at(n * 16 + (lane & 7) + ((lane >> 4) << 3), d * 2 + ((lane >> 3) & 1)));
          const unsigned b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
          mma_16816(score[2 * n], a, b0);
          mma_16816(score[2 * n + 1], a, b1);
        }
      }
      // This lane's scores are those of rows lane / 4 and lane / 4 + 8, columns 2 * (lane % 4) and the next.
      const int query = history + first + warp * 16 + (lane >> 2);
#pragma unroll
      for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int key = tile * N + n * 8 + 2 * (lane & 3) + (j & 1), row = query + (j >> 1) * 8;
          const bool ok = key <= row && key < seq.context && (window <= 0 || key > row - window);
          score[n][j] = ok ? score[n][j] * scale_log2 : -INFINITY;
        }
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float now = most[h], added = 0.f;
#pragma unroll
        for (int n = 0; n < N / 8; n++) now = fmaxf(now, fmaxf(score[n][2 * h], score[n][2 * h + 1]));
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
        const float reference = now == -INFINITY ? 0.f : now, shrink = exp2f(most[h] - reference);
        most[h] = now;
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
          score[n][2 * h] = exp2f(score[n][2 * h] - reference);
          score[n][2 * h + 1] = exp2f(score[n][2 * h + 1] - reference);
          added += score[n][2 * h] + score[n][2 * h + 1];
        }
        total[h] = total[h] * shrink + added;
#pragma unroll
        for (int i = 0; i < DIM / 8; i++) {
          sum[i][2 * h] *= shrink;
          sum[i][2 * h + 1] *= shrink;
        }
      }
#pragma unroll
      for (int n = 0; n < N / 16; n++) {
        const unsigned a[4] = {pack2(score[2 * n][0], score[2 * n][1]), pack2(score[2 * n][2], score[2 * n][3]),
                               pack2(score[2 * n + 1][0], score[2 * n + 1][1]),
                               pack2(score[2 * n + 1][2], score[2 * n + 1][3])};
#pragma unroll
        for (int d = 0; d < DIM / 16; d++) {
          unsigned r[4];
          load_matrices_transposed(r, v + at(n * 16 + (lane & 15), d * 2 + (lane >> 4)));
          const unsigned b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
          mma_16816(sum[2 * d], a, b0);
          mma_16816(sum[2 * d + 1], a, b1);
        }
      }
    }
    __syncthreads();  // the next round loads over this tile
  }
  if (idle) return;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float all = total[h];
    all += __shfl_xor_sync(0xffffffffu, all, 1);
    all += __shfl_xor_sync(0xffffffffu, all, 2);
    const int row = first + warp * 16 + (lane >> 2) + h * 8;
    if (row < seq.rows) {
      const float inverse = 1.f / all;
      unsigned* to = reinterpret_cast<unsigned*>(out + ((size_t)(seq.out + row) * heads + head) * DIM);
#pragma unroll
      for (int i = 0; i < DIM / 8; i++)
        to[i * 4 + (lane & 3)] = pack2(sum[i][2 * h] * inverse, sum[i][2 * h + 1] * inverse);
    }
  }
}

// Beside threads of a block: blocks of a multiprocessor, without which heads of 32 spill on sm_100.
#define PREFILL(DIM, ...)                                                                                             \
  KERNEL __launch_bounds__(__VA_ARGS__) prefill_attention_d##DIM(                                                     \
      const bf16* queries, const bf16* keys, const bf16* values, bf16* out, const Seq* seqs, const int* tables,       \
      const int* tiles, int kv_heads, float scale_log2, int window) {                                                 \
    prefill_body<DIM>(queries, keys, values, out, seqs, tables, tiles, kv_heads, scale_log2, window);                 \
  }
PREFILL(32, 128, 4) PREFILL(64, 128) PREFILL(128, 128)
