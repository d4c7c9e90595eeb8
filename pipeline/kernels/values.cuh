// What kernels read and write: 0 float32, 1 bfloat16, 2 float16. They compute in float32.
// `Value`, `wide` and `narrow` are those of DTYPE. ptx.cuh stands before this.

typedef unsigned short u16;
typedef long long i64;

template <int DTYPE_OF> struct Kind;
template <> struct Kind<0> {
  typedef float Value;
  static __device__ __forceinline__ float wide(float v) { return v; }
  static __device__ __forceinline__ float narrow(float v) { return v; }
};
template <> struct Kind<1> {
  typedef u16 Value;
  static __device__ __forceinline__ float wide(u16 v) { return __uint_as_float((unsigned)v << 16); }
  static __device__ __forceinline__ u16 narrow(float v) { return bf16_of(v); }
};
template <> struct Kind<2> {
  typedef u16 Value;
  static __device__ __forceinline__ float wide(u16 v) { return of_fp16(v); }
  static __device__ __forceinline__ u16 narrow(float v) { return fp16_of(v); }
};

typedef Kind<DTYPE>::Value Value;
__device__ __forceinline__ float wide(Value v) { return Kind<DTYPE>::wide(v); }
__device__ __forceinline__ Value narrow(float v) { return Kind<DTYPE>::narrow(v); }

#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

__device__ __forceinline__ float sigmoid(float v) {
  return __fdividef(1.f, 1.f + exp2_fast(-v * LOG2E));
}
// Where a row lies, from the first: no stride is negative, and one instruction tells a product of these.
__device__ __forceinline__ i64 row_at(int row, int stride) {
  return (i64)((unsigned long long)(unsigned)row * (unsigned)stride);
}
struct Stride { i64 x, b; int l; };  // of an array (X, B, L, ...), elements; its last axis is dense
