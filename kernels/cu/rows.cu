// What is done to rows between matrix products: embedding, norm, SiLU * mul, gathering rows, copying KV slots, putting
// ranks' results together.
// Widths are multiples of 8. A row's result depends on that row alone.
#include "common.cuh"

// out[r] = table[ids[r] - first] where the table has that row, else zeros: of a table that several ranks share, each has
// `rows` rows from `first` on, and their results add up to the whole's.  grid = rows, block = 128
KERNEL __launch_bounds__(128) gather_rows(const bf16* __restrict__ table, const int* __restrict__ ids,
                                          bf16* __restrict__ out, int cols, int first, int rows) {
  const int row = ids[blockIdx.x] - first;
  const bool here = row >= 0 && row < rows;
  const Pieces none = {0, 0, 0, 0};
  const Pieces* from = pieces(table + (size_t)(here ? row : 0) * cols);
  Pieces* to = pieces(out + (size_t)blockIdx.x * cols);
  for (int c = threadIdx.x; c < cols / 8; c += blockDim.x) to[c] = here ? from[c] : none;
}

// residual += x (where there is an x), y = rmsnorm(residual) * weight;  grid = rows, block = whole warps, 256 at most
KERNEL __launch_bounds__(256) add_rmsnorm(const bf16* x, bf16* residual, const bf16* __restrict__ weight, bf16* y,
                                          int cols, float epsilon) {
  SHARED(float, parts, [8]);
  const size_t base = (size_t)blockIdx.x * cols;
  float squares = 0.f;
  for (int c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) {
    float r[8];
    unpack8(*pieces(residual + base + c), r);
    if (x) {
      float a[8];
      unpack8(*pieces(x + base + c), a);
#pragma unroll
      for (int i = 0; i < 8; i++) r[i] += a[i];
      const Pieces sum = pack8(r);
      *pieces(residual + base + c) = sum;
      unpack8(sum, r);  // the norm is that of the rounded sum, which is what the next layer adds to
    }
#pragma unroll
    for (int i = 0; i < 8; i++) squares += r[i] * r[i];
  }
  squares = warp_sum(squares);
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = squares;
  __syncthreads();
  float sum = 0.f;
  for (int i = 0; i < (int)blockDim.x / 32; i++) sum += parts[i];
  const float scale = rsqrtf(sum / cols + epsilon);
  // Each thread reads back what it wrote itself.
  for (int c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) {
    float r[8], w[8];
    unpack8(*pieces(residual + base + c), r);
    unpack8(*pieces(weight + c), w);
#pragma unroll
    for (int i = 0; i < 8; i++) r[i] *= scale * w[i];
    *pieces(y + base + c) = pack8(r);
  }
}

// y[r, c] = silu(gate_up[r, c]) * gate_up[r, cols + c];  grid = (ceil(cols / 8 / 256), rows), block = 256
KERNEL __launch_bounds__(256) silu_mul(const bf16* __restrict__ gate_up, bf16* __restrict__ y, int cols) {
  const int c = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (c >= cols) return;
  const bf16* row = gate_up + (size_t)blockIdx.y * 2 * cols;
  float g[8], u[8];
  unpack8(*pieces(row + c), g);
  unpack8(*pieces(row + cols + c), u);
#pragma unroll
  for (int i = 0; i < 8; i++) g[i] = g[i] / (1.f + __expf(-g[i])) * u[i];
  *pieces(y + (size_t)blockIdx.y * cols + c) = pack8(g);
}

// Slot moves[2i] of every plane of `from` to slot moves[2i + 1] of `to`. A plane is one layer's keys or values.
// No slot is both read and written.  grid = (moves, planes), block = 64
KERNEL __launch_bounds__(64) copy_slots(const bf16* from, bf16* to, const int* __restrict__ moves, int width,
                                        int from_slots, int to_slots) {
  const int source = moves[2 * blockIdx.x], target = moves[2 * blockIdx.x + 1];
  const Pieces* a = pieces(from + ((size_t)blockIdx.y * from_slots + source) * width);
  Pieces* b = pieces(to + ((size_t)blockIdx.y * to_slots + target) * width);
  for (int i = threadIdx.x; i < width / 8; i += blockDim.x) b[i] = a[i];
}

// Ranks' parts of the same rows, each replaced by the sum of all, which is taken in f32 and in the order of ranks: the
// same bits everywhere. At most eight ranks; `count` pieces.  grid = ceil(count / 256), block = 256
KERNEL __launch_bounds__(256) all_reduce(bf16* p0, bf16* p1, bf16* p2, bf16* p3, bf16* p4, bf16* p5, bf16* p6, bf16* p7,
                                         int ranks, int count) {
  bf16* const parts[8] = {p0, p1, p2, p3, p4, p5, p6, p7};
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float sum[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
#pragma unroll
  for (int r = 0; r < 8; r++)
    if (r < ranks) {
      float part[8];
      unpack8(pieces(parts[r])[i], part);
#pragma unroll
      for (int j = 0; j < 8; j++) sum[j] += part[j];
    }
  const Pieces all = pack8(sum);
#pragma unroll
  for (int r = 0; r < 8; r++)
    if (r < ranks) pieces(parts[r])[i] = all;
}

// What ranks have of the same rows, `[ranks, rows, words]` in words of four bytes, side by side: `[rows, ranks * words]`.
// grid = (rows, ceil(ranks * words / 256)), block = 256
KERNEL __launch_bounds__(256) join_columns(const unsigned* __restrict__ parts, unsigned* __restrict__ out, int ranks,
                                           int words) {
  const int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= ranks * words) return;
  const size_t row = (size_t)(i / words) * gridDim.x + blockIdx.x;
  out[(size_t)blockIdx.x * ranks * words + i] = parts[row * words + i % words];
}
