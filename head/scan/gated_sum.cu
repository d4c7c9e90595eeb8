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

// y, out, dy and dout lie (X, M, E) and (M, E) without gaps; z's and dz's rows have strides.
extern "C" __global__ void __launch_bounds__(THREADS) gate_forward(
    const Value* __restrict__ y, const Value* __restrict__ z, Value* __restrict__ out,
    int directions, i64 tokens, int width, i64 stride_z) {
  const i64 at = ((i64)blockIdx.x * THREADS + threadIdx.x) * VECTOR;
  if (at >= tokens * width) return;
  const Few gate = *(const Few*)(z + at / width * stride_z + at % width);
  float sum[VECTOR] = {};
  for (int d = 0; d < directions; ++d) {
    const Few one = *(const Few*)(y + d * tokens * width + at);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) sum[i] += wide(one.v[i]);
  }
  Few made;
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    const float g = wide(gate.v[i]);
    made.v[i] = narrow(sum[i] * __fdividef(g, 1.f + exp2_fast(-g * LOG2E)));
  }
  *(Few*)(out + at) = made;
}

// The gradient of each direction is the same: dy is of one.
extern "C" __global__ void __launch_bounds__(THREADS) gate_backward(
    const Value* __restrict__ dout, const Value* __restrict__ y, const Value* __restrict__ z,
    Value* __restrict__ dy, Value* __restrict__ dz, int directions, i64 tokens, int width,
    i64 stride_z) {
  const i64 at = ((i64)blockIdx.x * THREADS + threadIdx.x) * VECTOR;
  if (at >= tokens * width) return;
  const Few gate = *(const Few*)(z + at / width * stride_z + at % width);
  const Few above = *(const Few*)(dout + at);
  float sum[VECTOR] = {};
  for (int d = 0; d < directions; ++d) {
    const Few one = *(const Few*)(y + d * tokens * width + at);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) sum[i] += wide(one.v[i]);
  }
  Few to_y, to_z;
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    const float g = wide(gate.v[i]), d = wide(above.v[i]);
    const float s = __fdividef(1.f, 1.f + exp2_fast(-g * LOG2E));
    to_y.v[i] = narrow(d * g * s);
    to_z.v[i] = narrow(d * sum[i] * s * fmaf(g, 1.f - s, 1.f));
  }
  *(Few*)(dy + at) = to_y;
  *(Few*)(dz + at) = to_z;
}
