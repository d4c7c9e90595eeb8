// The instructions for which CUDA C++ has no word: all PTX of the kernels is here, and stands before
// every source. A build for another machine brings these functions in its own words.

__device__ __forceinline__ unsigned short bf16_of(float v) {
  unsigned short r; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(v)); return r;
}
__device__ __forceinline__ unsigned short fp16_of(float v) {
  unsigned short r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(v)); return r;
}
__device__ __forceinline__ float of_fp16(unsigned short v) {
  float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v)); return r;
}
// Two bfloat16 in one register.
__device__ __forceinline__ unsigned two_bf16_of(float low, float high) {
  unsigned r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

// A float32 that is a bfloat16, in both halves of a register.
__device__ __forceinline__ unsigned both_halves_of(float v) {
  unsigned r;
  asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; mov.b32 %0, {high, high}; }" : "=r"(r) : "f"(v));
  return r;
}
// Both products of two pairs of them, rounded; minus zero is what adds nothing.
__device__ __forceinline__ unsigned products_of_bf16(unsigned a, unsigned b) {
  unsigned r;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(0x80008000u));
  return r;
}

__device__ __forceinline__ float exp2_fast(float v) {
  float r; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v)); return r;
}
// The same, but never taken from an earlier one: to keep that would cost the registers of a state.
__device__ __forceinline__ float exp2_again(float v) {
  float r; asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v)); return r;
}

// The value stays in its register, and is not made again where it is used.
__device__ __forceinline__ void stay(unsigned& v) { asm volatile("" : "+r"(v)); }

// A warp's product of 16 x 16 and 16 x 8 bfloat16, with what each lane has of them in PTX's order.
__device__ __forceinline__ void multiply_16_8_16(
    const unsigned (&left)[4], unsigned right_low, unsigned right_high, float (&product)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %10, %10, %10};"
      : "=f"(product[0]), "=f"(product[1]), "=f"(product[2]), "=f"(product[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right_low), "r"(right_high),
        "f"(0.f));
}
