// LayerNorm of the sum of two maps, its gradient, and what a residual stream needs beside it.
//
// Legend: M rows, W their width.
// A warp has a row, its lanes PIECES pieces of VECTOR neighbouring values each. Rows lie without gaps.
// Compiled with
//   WIDTH   W, any up to 2,048,
//   VECTOR  8, 4, 2 or 1, which divides W and at which all arrays are aligned,
//   DTYPE   of the stream x, of values.cuh, which stands before this,
//   ADDED   of what is added to it,
//   OUT     of what is normed,
//   WEIGHT  of the norm's weight and bias, where the forward reads them.

#define THREADS 256
#define WARPS (THREADS / 32)
#define PIECES ((WIDTH + 32 * VECTOR - 1) / (32 * VECTOR))
#define FULL 0xffffffffu
#define EACH _Pragma("unroll")

template <int OF> struct __align__(sizeof(typename Kind<OF>::Value) * VECTOR < 16
                                   ? sizeof(typename Kind<OF>::Value) * VECTOR : 16) Piece {
  typename Kind<OF>::Value v[VECTOR];
};
typedef float Row[PIECES][VECTOR];  // a lane's values of a row
typedef Kind<DTYPE>::Value X;
typedef Kind<ADDED>::Value Added;
typedef Kind<OUT>::Value Out;
typedef Kind<WEIGHT>::Value Weight;

__device__ __forceinline__ int column(int k) { return ((threadIdx.x & 31) + 32 * k) * VECTOR; }
__device__ __forceinline__ bool is_there(int k) {
  return WIDTH % (32 * VECTOR) == 0 || column(k) < WIDTH;
}

// Zeros behind the row's end.
template <int OF>
__device__ __forceinline__ void load(const typename Kind<OF>::Value* row, Row& f) {
EACH for (int k = 0; k < PIECES; ++k) {
    Piece<OF> got = {};
    if (is_there(k)) got = *(const Piece<OF>*)(row + column(k));
EACH for (int i = 0; i < VECTOR; ++i) f[k][i] = Kind<OF>::wide(got.v[i]);
  }
}
template <int OF>
__device__ __forceinline__ void store(typename Kind<OF>::Value* row, const Row& f) {
EACH for (int k = 0; k < PIECES; ++k) {
    Piece<OF> out;
EACH for (int i = 0; i < VECTOR; ++i) out.v[i] = Kind<OF>::narrow(f[k][i]);
    if (is_there(k)) *(Piece<OF>*)(row + column(k)) = out;
  }
}
__device__ __forceinline__ void add(Row& to, const Row& f) {
EACH for (int k = 0; k < PIECES; ++k)
EACH for (int i = 0; i < VECTOR; ++i) to[k][i] += f[k][i];
}
__device__ __forceinline__ float over_warp(float v) {
EACH for (int mask = 16; mask; mask >>= 1) v += __shfl_xor_sync(FULL, v, mask);
  return v;
}
// Less its mean, over its standard deviation, which is returned as 1 / sigma.
__device__ __forceinline__ float standardise(Row& f, float eps) {
  float sum = 0.f, squares = 0.f;
EACH for (int k = 0; k < PIECES; ++k)
EACH for (int i = 0; i < VECTOR; ++i) sum += f[k][i];
  const float mean = over_warp(sum) * (1.f / WIDTH);
EACH for (int k = 0; k < PIECES; ++k)
EACH for (int i = 0; i < VECTOR; ++i) {
    f[k][i] = is_there(k) ? f[k][i] - mean : 0.f;
    squares = fmaf(f[k][i], f[k][i], squares);
  }
  const float scale = rsqrtf(fmaf(over_warp(squares), 1.f / WIDTH, eps));
EACH for (int k = 0; k < PIECES; ++k)
EACH for (int i = 0; i < VECTOR; ++i) f[k][i] *= scale;
  return scale;
}

// sum = x + added, kept where there is a place for it; normed = LN(sum) w + b, likewise.
extern "C" __global__ void __launch_bounds__(THREADS) norm_forward(
    const X* __restrict__ x, const Added* __restrict__ added, const Weight* __restrict__ weight,
    const Weight* __restrict__ bias, X* __restrict__ sum, Out* __restrict__ normed, i64 rows,
    float eps) {
  const i64 row = (i64)blockIdx.x * WARPS + threadIdx.x / 32;
  if (row >= rows) return;
  Row f;
  load<DTYPE>(x + row * WIDTH, f);
  if (added) {
    Row other;
    load<ADDED>(added + row * WIDTH, other);
    add(f, other);
    // The norm is of the sum as it is kept.
EACH for (int k = 0; k < PIECES; ++k)
EACH for (int i = 0; i < VECTOR; ++i) f[k][i] = wide(narrow(f[k][i]));
  }
  if (sum) store<DTYPE>(sum + row * WIDTH, f);
  if (!normed) return;
  standardise(f, eps);
  Row w, b;
  load<WEIGHT>(weight, w);
  load<WEIGHT>(bias, b);
EACH for (int k = 0; k < PIECES; ++k)
EACH for (int i = 0; i < VECTOR; ++i) f[k][i] = fmaf(f[k][i], w[k][i], b[k][i]);
  store<OUT>(normed + row * WIDTH, f);
}

// Each warp's sums over its rows, added in order, to this block's row of `sums`.
__device__ __forceinline__ void add_up(const Row& own, float* sums) {
  __shared__ float total[WIDTH];
  for (int w = 0; w < WARPS; ++w) {
    __syncthreads();
    if (threadIdx.x / 32 != w) continue;
EACH for (int k = 0; k < PIECES; ++k)
EACH for (int i = 0; i < VECTOR; ++i)
      if (is_there(k)) total[column(k) + i] = own[k][i] + (w ? total[column(k) + i] : 0.f);
  }
  __syncthreads();
  for (int c = threadIdx.x; c < WIDTH; c += THREADS) sums[c] = total[c];
}

// dx = dsum + the norm's own gradient, also in the dtype of what was added where there is a place;
// sums (blocks, 2, W): parts of the gradients of weight and bias. Statistics are made again.
extern "C" __global__ void __launch_bounds__(THREADS) norm_backward(
    const Out* __restrict__ dnormed, const X* __restrict__ dsum, const X* __restrict__ sum,
    const float* __restrict__ weight, X* __restrict__ dx, Added* __restrict__ dadded,
    float* __restrict__ sums, i64 rows, float eps) {
  Row to_weight = {}, to_bias = {};
  for (i64 row = (i64)blockIdx.x * WARPS + threadIdx.x / 32; row < rows;
       row += (i64)gridDim.x * WARPS) {
    Row f, g, w;
    load<DTYPE>(sum + row * WIDTH, f);
    load<OUT>(dnormed + row * WIDTH, g);
    load<0>(weight, w);
    const float scale = standardise(f, eps);
    float mean = 0.f, along = 0.f;
EACH for (int k = 0; k < PIECES; ++k)
EACH for (int i = 0; i < VECTOR; ++i) {
      to_bias[k][i] += g[k][i];
      to_weight[k][i] = fmaf(g[k][i], f[k][i], to_weight[k][i]);
      g[k][i] *= w[k][i];
      mean += g[k][i];
      along = fmaf(g[k][i], f[k][i], along);
    }
    mean = over_warp(mean) * (1.f / WIDTH);
    along = over_warp(along) * (1.f / WIDTH);
    if (dsum) load<DTYPE>(dsum + row * WIDTH, w);
EACH for (int k = 0; k < PIECES; ++k)
EACH for (int i = 0; i < VECTOR; ++i)
      g[k][i] = fmaf(scale, g[k][i] - mean - f[k][i] * along, dsum ? w[k][i] : 0.f);
    store<DTYPE>(dx + row * WIDTH, g);
    if (dadded) store<ADDED>(dadded + row * WIDTH, g);
  }
  add_up(to_weight, sums + (i64)blockIdx.x * 2 * WIDTH);
  add_up(to_bias, sums + ((i64)blockIdx.x * 2 + 1) * WIDTH);
}

// Rows in the dtype OUT, and parts of their sum, (blocks, W).
extern "C" __global__ void __launch_bounds__(THREADS) narrow_and_sum(
    const X* __restrict__ x, Out* __restrict__ out, float* __restrict__ sums, i64 rows) {
  Row total = {};
  for (i64 row = (i64)blockIdx.x * WARPS + threadIdx.x / 32; row < rows;
       row += (i64)gridDim.x * WARPS) {
    Row f;
    load<DTYPE>(x + row * WIDTH, f);
    store<OUT>(out + row * WIDTH, f);
    add(total, f);
  }
  add_up(total, sums + (i64)blockIdx.x * WIDTH);
}
