// Random numbers that a counter makes (SplitMix64), so that the host makes the same ones: src/random.rs.
#include "common.cuh"

// out[r, c] = mean + half_width * u, of `count` elements in rows of `cols`, where u, from -1 to 1, is made of element
// first + r * stride + c of the stream of `key`.
// grid = ceil(count / 4096), block = 256: a thread takes 16 elements, 256 apart
KERNEL __launch_bounds__(256) fill_uniform(bf16* __restrict__ out, ulong64 count, ulong64 cols, ulong64 first,
                                           ulong64 stride, ulong64 key, float mean, float half_width) {
  const ulong64 begin = (ulong64)blockIdx.x * 4096 + threadIdx.x;
  for (int n = 0; n < 16; n++) {
    const ulong64 i = begin + (ulong64)n * 256;
    if (i >= count) return;
    const ulong64 row = i / cols;
    const ulong64 index = first + row * stride + (i - row * cols);
    ulong64 z = key + (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    const int above = (int)((z ^ (z >> 31)) >> 40) - (1 << 23);
    out[i] = to_bf16(fmaf(half_width, (float)above / 8388608.f, mean));
  }
}
