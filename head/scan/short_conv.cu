// A depthwise convolution of a few taps with SiLU, in each direction, and its gradient.
//
// Legend: X directions, B videos, L tokens, E channels.
// A thread walks RUN tokens of two neighbouring channels (one, if not ALIGNED) and keeps what the
// taps see in registers: the sequence is read once for both directions. The loads of STEPS tokens
// are issued together, since a walk that waited for each token would wait most of the time.
// Compiled with
//   TAPS     of the convolution, 1 to 8,
//   DTYPE    of values.cuh, which stands before this,
//   ALIGNED  1 if two neighbouring channels can be read in one piece.

#define THREADS 128
#define RUN 64
#define REACH (TAPS - 1)              // tokens that a tap sees before, or behind, its own
#define WINDOW (2 * REACH + 1)
#define STEPS 8                       // tokens that are on their way at once
#define VECTOR (ALIGNED ? 2 : 1)

struct __align__(sizeof(Value) * VECTOR) Few { Value v[VECTOR]; };
struct Shape { int directions, videos, length, width, runs, reversed; };

__device__ __forceinline__ Few read(const Value* p, bool is_there) {
  Few got = {};
  if (is_there) got = *(const Few*)p;
  return got;
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
  int e, b, first, run, length;
  bool is_there;
  __device__ Place(const Shape& s, const int* lengths) {
    const int groups = (s.width + VECTOR - 1) / VECTOR;
    const i64 number = (i64)blockIdx.x * THREADS + threadIdx.x;
    const i64 row = number / groups;
    e = (int)(number % groups) * VECTOR;
    b = (int)(row / s.runs); run = (int)row;
    first = (int)(row % s.runs) * RUN;
    is_there = b < s.videos;
    length = lengths && is_there ? lengths[b] : s.length;
  }
};

template <int SIZE>
__device__ __forceinline__ void push(float (&window)[SIZE][VECTOR], const float (&f)[VECTOR]) {
#pragma unroll
  for (int k = 0; k + 1 < SIZE; ++k)
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) window[k][i] = window[k + 1][i];
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) window[SIZE - 1][i] = f[i];
}

// Before SiLU, at the window's middle. From the front tap k sees REACH - k tokens back; from the
// end as many ahead.
__device__ __forceinline__ float convolved(
    const float (&x)[WINDOW][VECTOR], const float (&w)[TAPS][VECTOR], float bias, bool is_reversed,
    int i) {
  float sum = bias;
#pragma unroll
  for (int k = 0; k < TAPS; ++k)
    sum = fmaf(w[k][i], is_reversed ? x[2 * REACH - k][i] : x[k][i], sum);
  return sum;
}

__device__ __forceinline__ void load_weights(
    const float* weight, const float* bias, int x, int e, int width, float (&w)[TAPS][VECTOR],
    float (&b)[VECTOR]) {
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    b[i] = bias[x * width + e + i];
#pragma unroll
    for (int k = 0; k < TAPS; ++k) w[k][i] = weight[((i64)x * width + e + i) * TAPS + k];
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) conv_forward(
    const Value* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
    const int* __restrict__ lengths, Value* __restrict__ out, Shape s, Stride sx, Stride so) {
  const Place p(s, lengths);
  if (!p.is_there) return;
  float w[2][TAPS][VECTOR], b[2][VECTOR], window[WINDOW][VECTOR] = {};
#pragma unroll
  for (int d = 0; d < 2; ++d)
    if (d < s.directions) load_weights(weight, bias, d, p.e, s.width, w[d], b[d]);
  x += p.b * sx.b + p.e;
  out += p.b * so.b + p.e;
  const int last = min(p.first + RUN, s.length);
  for (int t0 = p.first - REACH; t0 < last + REACH; t0 += STEPS) {
    Few coming[STEPS];
#pragma unroll
    for (int j = 0; j < STEPS; ++j)
      coming[j] = read(x + (t0 + j) * sx.l, t0 + j >= 0 && t0 + j < p.length);
#pragma unroll
    for (int j = 0; j < STEPS; ++j) {
      float f[VECTOR];
      widen(coming[j], f);
      push(window, f);
      const int middle = t0 + j - REACH;
      if (middle < p.first || middle >= last) continue;
#pragma unroll
      for (int d = 0; d < 2; ++d) {
        if (d >= s.directions) continue;
        float y[VECTOR];
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
          const float v = convolved(window, w[d], b[d][i], (s.reversed >> d) & 1, i);
          y[i] = middle < p.length ? v * sigmoid(v) : 0.f;
        }
        write(out + d * so.x + middle * so.l, y);
      }
    }
  }
}

// The gradient of what the convolution gave, before SiLU, at the window's middle.
__device__ __forceinline__ void before_silu(
    const float (&window)[WINDOW][VECTOR], const float (&w)[TAPS][VECTOR],
    const float (&b)[VECTOR], bool is_reversed, const Few& above, float (&g)[VECTOR]) {
  widen(above, g);
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    const float v = convolved(window, w, b[i], is_reversed, i), s = sigmoid(v);
    g[i] *= s * fmaf(v, 1.f - s, 1.f);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) conv_backward(
    const Value* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
    const int* __restrict__ lengths, const Value* __restrict__ dout, Value* __restrict__ dx,
    float* __restrict__ dweight, float* __restrict__ dbias, Shape s, Stride sx, Stride so,
    Stride sdx) {
  const Place p(s, lengths);
  if (!p.is_there) return;
  x += p.b * sx.b + p.e;
  dout += p.b * so.b + p.e;
  dx += p.b * sdx.b + p.e;
  const int last = min(p.first + RUN, s.length);
  float w[2][TAPS][VECTOR], b[2][VECTOR];
  float dw[2][TAPS][VECTOR] = {}, db[2][VECTOR] = {};
#pragma unroll
  for (int d = 0; d < 2; ++d)
    if (d < s.directions) load_weights(weight, bias, d, p.e, s.width, w[d], b[d]);
  float window[WINDOW][VECTOR] = {}, g[2][WINDOW][VECTOR] = {};
  // A token's gradient comes from REACH tokens on both sides, whose own windows reach as far again.
  for (int t0 = p.first - 2 * REACH; t0 < last + 2 * REACH; t0 += STEPS) {
    Few coming[STEPS], above[2][STEPS];
#pragma unroll
    for (int j = 0; j < STEPS; ++j) {
      const int t = t0 + j, middle = t - REACH;  // of the window of x
      coming[j] = read(x + t * sx.l, t >= 0 && t < p.length);
#pragma unroll
      for (int d = 0; d < 2; ++d)
        above[d][j] = read(dout + d * so.x + middle * so.l,
                           d < s.directions && middle >= 0 && middle < p.length);
    }
#pragma unroll
    for (int j = 0; j < STEPS; ++j) {
      float f[VECTOR];
      widen(coming[j], f);
      push(window, f);
      const int middle = t0 + j - REACH;
#pragma unroll
      for (int d = 0; d < 2; ++d) {
        if (d >= s.directions) continue;
        const bool is_reversed = (s.reversed >> d) & 1;
        float now[VECTOR];
        before_silu(window, w[d], b[d], is_reversed, above[d][j], now);
        push(g[d], now);
        if (middle < p.first || middle >= last) continue;
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
          db[d][i] += now[i];
#pragma unroll
          for (int k = 0; k < TAPS; ++k)
            dw[d][k][i] = fmaf(now[i], is_reversed ? window[2 * REACH - k][i] : window[k][i],
                               dw[d][k][i]);
        }
      }
      const int done = middle - REACH;  // of the windows of gradients
      if (done < p.first || done >= last) continue;
      float sum[VECTOR] = {};
#pragma unroll
      for (int d = 0; d < 2; ++d) {
        if (d >= s.directions) continue;
        const bool is_reversed = (s.reversed >> d) & 1;
#pragma unroll
        for (int k = 0; k < TAPS; ++k)
#pragma unroll
          for (int i = 0; i < VECTOR; ++i)
            sum[i] = fmaf(w[d][k][i], is_reversed ? g[d][k][i] : g[d][2 * REACH - k][i], sum[i]);
      }
      if (done >= p.length)  // the forward has not read it
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) sum[i] = 0.f;
      write(dx + done * sdx.l, sum);
    }
  }
#pragma unroll
  for (int d = 0; d < 2; ++d) {
    if (d >= s.directions) continue;
    const i64 row = ((i64)d * s.videos * s.runs + p.run) * s.width + p.e;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      dbias[row + i] = db[d][i];
#pragma unroll
      for (int k = 0; k < TAPS; ++k) dweight[(row + i) * TAPS + k] = dw[d][k][i];
    }
  }
}
