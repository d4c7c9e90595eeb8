// The sum of the directions times SiLU of the gate, and its gradient: (y0 + y1) silu(z).
//
// Legend: X directions, M = B * L tokens, E channels.
// A thread has eight neighbouring channels of a token (one, if not ALIGNED). Compiled with ALIGNED
// and the DTYPE of values.cuh, which stands before this.

#define THREADS 256
#define VECTOR (ALIGNED ? 8 : 1)

#if ALIGNED
struct __align__(16) Few { Value v[VECTOR]; };
#else
struct Few { Value v[VECTOR]; };
#endif

// out = sum * z * sigmoid(z).
__device__ __forceinline__ float gated(float sum, float z) {
  return sum * __fdividef(z, 1.f + exp2_fast(-z * LOG2E));
}

// y, out and sum lie (X, M, E) and (M, E) without gaps; z's rows have strides. The sum, which the
// gradient needs, is written where there is a place for it.
extern "C" __global__ void __launch_bounds__(THREADS) gate_forward(
    const Value* __restrict__ y, const Value* __restrict__ z, Value* __restrict__ out,
    Value* __restrict__ kept_sum, int directions, i64 tokens, int width, i64 stride_z) {
  const i64 at = ((i64)blockIdx.x * THREADS + threadIdx.x) * VECTOR;
  if (at >= tokens * width) return;
  const Few gate = *(const Few*)(z + at / width * stride_z + at % width);
  float sum[VECTOR] = {};
  for (int d = 0; d < directions; ++d) {
    const Few one = *(const Few*)(y + d * tokens * width + at);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) sum[i] += wide(one.v[i]);
  }
  Few made, kept;
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    made.v[i] = narrow(gated(sum[i], wide(gate.v[i])));
    kept.v[i] = narrow(sum[i]);
  }
  *(Few*)(out + at) = made;
  if (kept_sum) *(Few*)(kept_sum + at) = kept;
}

// The gradient of each direction is the same: dy is of one. What the gate let through is made
// again, for the gradient of the product behind it.
extern "C" __global__ void __launch_bounds__(THREADS) gate_backward(
    const Value* __restrict__ dout, const Value* __restrict__ sum, const Value* __restrict__ z,
    Value* __restrict__ dy, Value* __restrict__ dz, Value* __restrict__ out, i64 tokens, int width,
    i64 stride_z) {
  const i64 at = ((i64)blockIdx.x * THREADS + threadIdx.x) * VECTOR;
  if (at >= tokens * width) return;
  const Few gate = *(const Few*)(z + at / width * stride_z + at % width);
  const Few above = *(const Few*)(dout + at), own = *(const Few*)(sum + at);
  Few to_y, to_z, made;
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    const float g = wide(gate.v[i]), d = wide(above.v[i]), y = wide(own.v[i]);
    const float s = sigmoid(g);
    to_y.v[i] = narrow(d * g * s);
    to_z.v[i] = narrow(d * y * s * fmaf(g, 1.f - s, 1.f));
    made.v[i] = narrow(gated(y, g));
  }
  *(Few*)(dy + at) = to_y;
  *(Few*)(dz + at) = to_z;
  *(Few*)(out + at) = made;
}
