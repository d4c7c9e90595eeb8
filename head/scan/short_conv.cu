// A depthwise convolution of a few taps with SiLU, in each direction, and its gradient.
//
// Legend: X directions, B videos, L tokens, E channels.
// A thread walks RUN tokens of two neighbouring channels (one, if not ALIGNED) and keeps what the
// taps see in registers: the sequence is read once for both directions. It takes STEPS tokens at a
// time, whose successors are on their way meanwhile.
// Compiled with
//   TAPS        of the convolution, 1 to 8,
//   DIRECTIONS  1 or 2,
//   REVERSED    bit x: direction x walks from the end,
//   DTYPE       of values.cuh, which stands before this,
//   ALIGNED     1 if two neighbouring channels can be read in one piece.

#define THREADS 128
#define RUN 128
#define REACH (TAPS - 1)              // tokens that a tap sees before, or behind, its own
#define WINDOW (2 * REACH + 1)
#define STEPS 4
#define KEPT (WINDOW - 1 + STEPS)     // tokens in registers: those of STEPS windows
#define VECTOR (ALIGNED ? 2 : 1)

struct __align__(sizeof(Value) * VECTOR) Few { Value v[VECTOR]; };
struct Shape { int videos, length, width, runs; };

__device__ __forceinline__ constexpr bool is_reversed(int direction) {
  return (REVERSED >> direction) & 1;
}
__device__ __forceinline__ void widen(const Few& from, float (&f)[VECTOR]) {
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) f[i] = wide(from.v[i]);
}
__device__ __forceinline__ void write(Value* p, const float (&f)[VECTOR]) {
  Few out;
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) out.v[i] = narrow(f[i]);
  *(Few*)p = out;
}

struct Place {  // of a thread: its channels and its tokens
  int e, b, first, last, run, length;
  bool is_there;
  __device__ Place(const Shape& s, const int* lengths) {
    const int groups = (s.width + VECTOR - 1) / VECTOR;
    const i64 number = (i64)blockIdx.x * THREADS + threadIdx.x;
    const i64 row = number / groups;
    e = (int)(number % groups) * VECTOR;
    b = (int)(row / s.runs); run = (int)row;
    first = (int)(row % s.runs) * RUN;
    last = min(first + RUN, s.length);
    is_there = b < s.videos;
    length = lengths && is_there ? lengths[b] : s.length;
  }
};

// STEPS tokens from `first` on; zeros where there are none.
__device__ __forceinline__ void read(
    const Value* p, int stride, int first, int length, Few (&got)[STEPS]) {
  p += (i64)first * stride;
#pragma unroll
  for (int j = 0; j < STEPS; ++j, p += stride) {
    got[j] = Few{};
    if ((unsigned)(first + j) < (unsigned)length) got[j] = *(const Few*)p;
  }
}
// The last tokens of the windows before become the first of the next.
__device__ __forceinline__ void move_on(float (&kept)[KEPT][VECTOR]) {
#pragma unroll
  for (int k = 0; k < WINDOW - 1; ++k)
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) kept[k][i] = kept[k + STEPS][i];
}

// The token that tap k sees of the window that begins at j: from the front REACH - k back, from the
// end as many ahead.
__device__ __forceinline__ constexpr int seen(int direction, int j, int k) {
  return is_reversed(direction) ? j + 2 * REACH - k : j + k;
}
// The token whose tap k sees the middle of the window that begins at j.
__device__ __forceinline__ constexpr int seeing(int direction, int j, int k) {
  return is_reversed(direction) ? j + k : j + 2 * REACH - k;
}

struct Weights {
  float w[DIRECTIONS][TAPS][VECTOR], bias[DIRECTIONS][VECTOR];
  __device__ __forceinline__ Weights(const float* weight, const float* b, int e, int width) {
#pragma unroll
    for (int d = 0; d < DIRECTIONS; ++d)
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) {
        bias[d][i] = b[d * width + e + i];
#pragma unroll
        for (int k = 0; k < TAPS; ++k) w[d][k][i] = weight[((i64)d * width + e + i) * TAPS + k];
      }
  }
  // Before SiLU, at the middle of the window that begins at j.
  __device__ __forceinline__ float convolved(
      const float (&x)[KEPT][VECTOR], int d, int j, int i) const {
    float sum = bias[d][i];
#pragma unroll
    for (int k = 0; k < TAPS; ++k) sum = fmaf(w[d][k][i], x[seen(d, j, k)][i], sum);
    return sum;
  }
};

extern "C" __global__ void __launch_bounds__(THREADS) conv_forward(
    const Value* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
    const int* __restrict__ lengths, Value* __restrict__ out, Shape s, Stride sx, Stride so) {
  const Place p(s, lengths);
  if (!p.is_there) return;
  const Weights weights(weight, bias, p.e, s.width);
  float kept[KEPT][VECTOR] = {};
  Few coming[STEPS];
  x += p.b * sx.b + p.e;
  out += p.b * so.b + p.e;
  read(x, sx.l, p.first - REACH, p.length, coming);
  for (int t0 = p.first - REACH; t0 < p.last + REACH; t0 += STEPS) {
#pragma unroll
    for (int j = 0; j < STEPS; ++j) widen(coming[j], kept[WINDOW - 1 + j]);
    read(x, sx.l, t0 + STEPS, p.length, coming);
    Value* to = out + (i64)(t0 - REACH) * so.l;
#pragma unroll
    for (int j = 0; j < STEPS; ++j, to += so.l) {
      const int middle = t0 + j - REACH;
      float y[DIRECTIONS][VECTOR];
#pragma unroll
      for (int d = 0; d < DIRECTIONS; ++d)
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
          const float v = weights.convolved(kept, d, j, i);
          y[d][i] = v * sigmoid(v);
        }
      if (middle < p.first || middle >= p.last) continue;
#pragma unroll
      for (int d = 0; d < DIRECTIONS; ++d) {
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) y[d][i] = middle < p.length ? y[d][i] : 0.f;
        write(to + d * so.x, y[d]);
      }
    }
    move_on(kept);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) conv_backward(
    const Value* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
    const int* __restrict__ lengths, const Value* __restrict__ dout, Value* __restrict__ dx,
    float* __restrict__ dweight, float* __restrict__ dbias, Shape s, Stride sx, Stride so,
    Stride sdx) {
  const Place p(s, lengths);
  if (!p.is_there) return;
  const Weights weights(weight, bias, p.e, s.width);
  float dw[DIRECTIONS][TAPS][VECTOR] = {}, db[DIRECTIONS][VECTOR] = {};
  float kept[KEPT][VECTOR] = {}, g[DIRECTIONS][KEPT][VECTOR] = {};  // g: before SiLU
  Few coming[STEPS], above[DIRECTIONS][STEPS];
  x += p.b * sx.b + p.e;
  dout += p.b * so.b + p.e;
  dx += p.b * sdx.b + p.e;
  auto read_next = [&](int t) {
    read(x, sx.l, t, p.length, coming);
#pragma unroll
    for (int d = 0; d < DIRECTIONS; ++d)
      read(dout + d * so.x, so.l, t - REACH, p.length, above[d]);
  };
  // A token's gradient comes from REACH tokens on both sides, whose own windows reach as far again.
  read_next(p.first - 2 * REACH);
  for (int t0 = p.first - 2 * REACH; t0 < p.last + 2 * REACH; t0 += STEPS) {
#pragma unroll
    for (int j = 0; j < STEPS; ++j) {
      widen(coming[j], kept[WINDOW - 1 + j]);
#pragma unroll
      for (int d = 0; d < DIRECTIONS; ++d) widen(above[d][j], g[d][WINDOW - 1 + j]);
    }
    read_next(t0 + STEPS);
    Value* to = dx + (i64)(t0 - 2 * REACH) * sdx.l;
#pragma unroll
    for (int j = 0; j < STEPS; ++j, to += sdx.l) {
      const int middle = t0 + j - REACH, done = middle - REACH;
      const bool is_own = middle >= p.first && middle < p.last;
      float sum[VECTOR] = {};
#pragma unroll
      for (int d = 0; d < DIRECTIONS; ++d)
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
          const float v = weights.convolved(kept, d, j, i), at = sigmoid(v);
          float& now = g[d][WINDOW - 1 + j][i];
          now *= at * fmaf(v, 1.f - at, 1.f);
          const float own = is_own ? now : 0.f;
          db[d][i] += own;
#pragma unroll
          for (int k = 0; k < TAPS; ++k) {
            dw[d][k][i] = fmaf(own, kept[seen(d, j, k)][i], dw[d][k][i]);
            sum[i] = fmaf(weights.w[d][k][i], g[d][seeing(d, j, k)][i], sum[i]);
          }
        }
      if (done >= p.first && done < p.last) {
        if (done >= p.length)  // the forward has not read it
#pragma unroll
          for (int i = 0; i < VECTOR; ++i) sum[i] = 0.f;
        write(to, sum);
      }
    }
    move_on(kept);
#pragma unroll
    for (int d = 0; d < DIRECTIONS; ++d) move_on(g[d]);
  }
#pragma unroll
  for (int d = 0; d < DIRECTIONS; ++d) {
    const i64 row = ((i64)d * s.videos * s.runs + p.run) * s.width + p.e;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      dbias[row + i] = db[d][i];
#pragma unroll
      for (int k = 0; k < TAPS; ++k) dweight[(row + i) * TAPS + k] = dw[d][k][i];
    }
  }
}
