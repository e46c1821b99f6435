// From logits to tokens: the most likely one, or one drawn after temperature, top-k and top-p. Only ids leave the device.
//
// Probabilities are kept in fixed point (40 bits after the point), so that sums do not depend on the order of threads.
// Nothing is sorted: the token at which a sorted vocabulary would be cut is found eight bits of its logit at a time.
#include "common.cuh"

// How one row's token is chosen.
struct Draw {
  float inverse_temperature;  // 0 = the most likely token
  int top_k;                  // 0 = all
  float top_p;                // 1 = all
  float at;                   // from 0 to 1: a random number
};

#define THREADS 512

// Greater logits have greater keys.
__device__ __forceinline__ unsigned key_of(float x) {
  const unsigned u = __float_as_uint(x);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}
__device__ __forceinline__ float of_key(unsigned k) {
  return __uint_as_float(k & 0x80000000u ? k & 0x7fffffffu : ~k);
}

// What a row's logits weigh: relative to the greatest.
struct Weigh {
  float most, scale_log2;
  __device__ __forceinline__ ulong64 operator()(unsigned key) const {
    return (ulong64)(exp2f((of_key(key) - most) * scale_log2) * 1099511627776.f);
  }
};

// The first tokens of the sorted vocabulary: all above `key`, and the first `ties` of those at it.
struct Cut {
  unsigned key;
  int ties;
};

// The shortest cut, within `in`, that holds `target` of the mass, which is what logits weigh, or their number.
__device__ __forceinline__ Cut cut_at(const float* logits, int vocab, Weigh weigh, bool count, Cut in, ulong64 target,
                                      ulong64* bins, ulong64* found) {
  unsigned prefix = 0;
  ulong64 above = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += THREADS) bins[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < vocab; i += THREADS) {
      const unsigned key = key_of(logits[i]);
      const bool same = shift == 24 || key >> (shift + 8) == prefix >> (shift + 8);
      if (key > in.key && same) atomicAdd(&bins[key >> shift & 255], count ? 1ull : weigh(key));
    }
    // Tokens at the outer cut's key are added at once: how many of them count is known.
    if (threadIdx.x == 0 && in.ties > 0 && (shift == 24 || in.key >> (shift + 8) == prefix >> (shift + 8)))
      atomicAdd(&bins[in.key >> shift & 255], (count ? 1ull : weigh(in.key)) * in.ties);
    __syncthreads();
    if (threadIdx.x == 0) {
      int bin = 255;
      while (bin > 0 && above + bins[bin] < target) above += bins[bin--];
      found[0] = above;
      found[1] = bin;
    }
    __syncthreads();
    above = found[0];
    prefix |= (unsigned)found[1] << shift;
    __syncthreads();
  }
  const ulong64 each = count ? 1ull : weigh(prefix);
  const ulong64 ties = each ? (target - above + each - 1) / each : 1ull;
  Cut cut;
  cut.key = prefix;
  cut.ties = (int)(ties < 0x7fffffffull ? ties : 0x7fffffffull);
  return cut;
}

// tokens[row] from logits [rows, vocab];  grid = rows, block = 512
KERNEL __launch_bounds__(THREADS, 2) sample(const float* __restrict__ all, const Draw* __restrict__ draws,
                                         int* __restrict__ tokens, int vocab) {
  SHARED(ulong64, bins, [256]);
  SHARED(ulong64, found, [2]);
  SHARED(float, best_logit, [THREADS / 32]);
  SHARED(int, best_token, [THREADS / 32]);
  SHARED(ulong64, masses, [THREADS]);
  SHARED(int, equals, [THREADS]);
  const float* logits = all + (size_t)blockIdx.x * vocab;
  const Draw draw = draws[blockIdx.x];
  const int tid = threadIdx.x;

  // The most likely token; of several, the first.
  float most = -INFINITY;
  int token = 0x7fffffff;
  for (int i = tid; i < vocab; i += THREADS)
    if (logits[i] > most || token == 0x7fffffff) { most = logits[i]; token = i; }
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) {
    const float m = __shfl_xor_sync(0xffffffffu, most, o);
    const int t = __shfl_xor_sync(0xffffffffu, token, o);
    if (m > most || (m == most && t < token)) { most = m; token = t; }
  }
  if ((tid & 31) == 0) { best_logit[tid >> 5] = most; best_token[tid >> 5] = token; }
  __syncthreads();
  for (int w = 0; w < THREADS / 32; w++) {
    const float m = best_logit[w];
    const int t = best_token[w];
    if (m > most || (m == most && t < token)) { most = m; token = t; }
  }
  if (draw.inverse_temperature == 0.f || most == -INFINITY) {
    if (tid == 0) tokens[blockIdx.x] = token;
    return;
  }

  Weigh weigh;
  weigh.most = most;
  weigh.scale_log2 = draw.inverse_temperature * 1.44269504f;
  // Keys are above 0 whatever the logit, but for one NaN: nothing is left out, and nothing is at the cut.
  Cut cut;
  cut.key = 0;
  cut.ties = 0;
  if (draw.top_k > 0 && draw.top_k < vocab)
    cut = cut_at(logits, vocab, weigh, true, cut, (ulong64)draw.top_k, bins, found);
  const int each = (vocab + THREADS - 1) / THREADS, from = min(vocab, tid * each), to = min(vocab, from + each);
  // Twice: what is left after top-k is what top-p is a share of.
  for (int pass = 0; pass < 2; pass++) {
    ulong64 mass = 0;
    int equal = 0;
    for (int i = from; i < to; i++) {
      const unsigned key = key_of(logits[i]);
      if (key > cut.key) mass += weigh(key);
      equal += key == cut.key;
    }
    masses[tid] = mass;
    equals[tid] = equal;
    __syncthreads();
    if (tid == 0) {
      const ulong64 one = weigh(cut.key);
      ulong64 sum = 0;
      int left = cut.ties;
      for (int t = 0; t < THREADS; t++) {
        const int taken = min(left, equals[t]);
        const ulong64 own = masses[t] + (taken > 0 ? one * taken : 0ull);
        masses[t] = sum;  // before this thread's tokens
        equals[t] = left;
        sum += own;
        left -= taken;
      }
      found[0] = sum;
    }
    __syncthreads();
    const ulong64 whole = found[0];
    __syncthreads();
    if (pass == 0 && draw.top_p < 1.f) {
      const ulong64 share = (ulong64)ceil((double)draw.top_p * (double)whole);
      cut = cut_at(logits, vocab, weigh, false, cut, share < 1 ? 1 : share > whole ? whole : share, bins, found);
      continue;
    }
    // The token whose share of the sum the random number falls into.
    ulong64 point = (ulong64)((double)draw.at * (double)whole);
    if (point >= whole) point = whole - 1;
    ulong64 sum = masses[tid];
    int left = equals[tid];
    if (tid == 0) tokens[blockIdx.x] = token;
    __syncthreads();
    for (int i = from; i < to && sum <= point; i++) {
      const unsigned key = key_of(logits[i]);
      if (key < cut.key || (key == cut.key && left <= 0)) continue;
      left -= key == cut.key;
      sum += weigh(key);
      if (sum > point) tokens[blockIdx.x] = i;
    }
    return;
  }
}
