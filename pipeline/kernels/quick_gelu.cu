// QuickGELU, x sigmoid(1.702 x), and its gradient.
//
// A thread has eight neighbouring values (one, if not ALIGNED). Compiled with ALIGNED and the DTYPE
// of values.cuh, which stands before this.

#define THREADS 256
#define VECTOR (ALIGNED ? 8 : 1)
#define SLOPE 1.702f

#if ALIGNED
struct __align__(16) Few { Value v[VECTOR]; };
#else
struct Few { Value v[VECTOR]; };
#endif

// x, out, dout and dx lie without gaps; size is a multiple of VECTOR.
extern "C" __global__ void __launch_bounds__(THREADS) quick_gelu_forward(
    const Value* __restrict__ x, Value* __restrict__ out, i64 size) {
  const i64 at = ((i64)blockIdx.x * THREADS + threadIdx.x) * VECTOR;
  if (at >= size) return;
  const Few own = *(const Few*)(x + at);
  Few made;
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    const float v = wide(own.v[i]);
    made.v[i] = narrow(__fdividef(v, 1.f + exp2_fast(-SLOPE * LOG2E * v)));
  }
  *(Few*)(out + at) = made;
}

// With s = sigmoid(1.702 x): dx = dout s (1 + 1.702 x (1 - s)).
extern "C" __global__ void __launch_bounds__(THREADS) quick_gelu_backward(
    const Value* __restrict__ dout, const Value* __restrict__ x, Value* __restrict__ dx, i64 size) {
  const i64 at = ((i64)blockIdx.x * THREADS + threadIdx.x) * VECTOR;
  if (at >= size) return;
  const Few above = *(const Few*)(dout + at), own = *(const Few*)(x + at);
  Few made;
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    const float v = wide(own.v[i]), s = sigmoid(SLOPE * v);
    made.v[i] = narrow(wide(above.v[i]) * s * fmaf(SLOPE * v, 1.f - s, 1.f));
  }
  *(Few*)(dx + at) = made;
}
