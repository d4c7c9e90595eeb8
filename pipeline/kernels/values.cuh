// What kernels read and write, by DTYPE: 0 float32, 1 bfloat16, 2 float16. They compute in float32.

typedef unsigned short u16;
typedef long long i64;

#if DTYPE == 0
typedef float Value;
__device__ __forceinline__ float wide(Value v) { return v; }
__device__ __forceinline__ Value narrow(float v) { return v; }
#elif DTYPE == 1
typedef u16 Value;
__device__ __forceinline__ float wide(Value v) { return __uint_as_float((unsigned)v << 16); }
__device__ __forceinline__ Value narrow(float v) {
  u16 r; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(v)); return r;
}
#else
typedef u16 Value;
__device__ __forceinline__ float wide(Value v) {
  float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v)); return r;
}
__device__ __forceinline__ Value narrow(float v) {
  u16 r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(v)); return r;
}
#endif

#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

__device__ __forceinline__ float exp2_fast(float v) {
  float r; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v)); return r;
}
__device__ __forceinline__ float sigmoid(float v) {
  return __fdividef(1.f, 1.f + exp2_fast(-v * LOG2E));
}
struct Stride { i64 x, b, l; };  // of an array (X, B, L, ...), elements; its last axis is contiguous
