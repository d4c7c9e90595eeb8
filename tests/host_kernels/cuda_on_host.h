// CUDA's words for g++: a kernel's source, as it is, becomes functions of this machine.
//
// Stands before the sources, with the flags of host_build.py. The threads of a block are fibers, and
// blocks run one after the other, so shared arrays are plain static ones; block_runner.cpp says the
// rest. Rounds as C does, where a GPU's fast operations err in the last bits.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

struct Index { unsigned x, y, z; };
extern Index threadIdx, blockIdx, gridDim;

// A lane's part in an exchange of its warp. All 32 lanes bring eight words, and see everyone's.
struct Words { unsigned word[8]; };
const Words* exchanged(const Words& own, int kind);
void wait_for_block();
void refuse_to_run(const char* words);
void run_blocks(
    void (*kernel)(void**), void** arguments, unsigned blocks, unsigned rows, unsigned threads);

namespace {

struct alignas(8) float2 { float x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using std::fmaf;
using std::max;
using std::min;

inline unsigned bits_of(float v) { unsigned bits; std::memcpy(&bits, &v, 4); return bits; }
inline float __uint_as_float(unsigned bits) { float v; std::memcpy(&v, &bits, 4); return v; }

inline float __logf(float v) { return std::log(v); }
inline float rsqrtf(float v) { return 1.f / std::sqrt(v); }
// CUDA's manual, "Intrinsic Functions": 0 for finite x where y is between 2^126 and 2^128.
inline float __fdividef(float x, float y) {
  const float size = std::fabs(y);
  return size > 0x1p126f && !std::isinf(size) ? x * 0.f : x / y;
}

enum Exchange { SYNCWARP, SHUFFLE, PRODUCT };
inline void __syncthreads() { wait_for_block(); }
inline void __syncwarp() { exchanged(Words{}, SYNCWARP); }
inline float __shfl_xor_sync(unsigned, float v, int mask) {
  const int lane = threadIdx.x % 32;
  return __uint_as_float(exchanged(Words{{bits_of(v)}}, SHUFFLE)[lane ^ mask].word[0]);
}

// What ptx.cuh has on a GPU.
inline unsigned short bf16_of(float v) {  // to nearest, ties to even
  const unsigned bits = bits_of(v);
  return std::isnan(v) ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}
inline unsigned short fp16_of(float v) {
  const _Float16 half = (_Float16)v;
  unsigned short bits; std::memcpy(&bits, &half, 2); return bits;
}
inline float of_fp16(unsigned short v) { _Float16 half; std::memcpy(&half, &v, 2); return half; }
inline unsigned two_bf16_of(float low, float high) {
  return bf16_of(low) | (unsigned)bf16_of(high) << 16;
}
inline unsigned both_halves_of(float v) {
  const unsigned high = bits_of(v) >> 16;
  return high << 16 | high;
}
inline unsigned products_of_bf16(unsigned a, unsigned b) {
  const auto product = [](unsigned high_a, unsigned high_b) {
    return bf16_of(__uint_as_float(high_a) * __uint_as_float(high_b));
  };
  return product(a << 16, b << 16) | (unsigned)product(a & 0xffff0000u, b & 0xffff0000u) << 16;
}
inline float without_denormals(float v) { return std::fpclassify(v) == FP_SUBNORMAL ? 0.f : v; }
inline float exp2_fast(float v) { return without_denormals(std::exp2(without_denormals(v))); }
inline float exp2_again(float v) { return exp2_fast(v); }
inline void stay(unsigned&) {}

// PTX ISA, "Matrix Fragments for mma.m16n8k16": lane 4 r + c has rows r and r + 8 of the left side,
// column r of the right side, and columns 2c and 2c + 1 of the product; along K 2c, 2c + 1 and 8 on.
inline void multiply_16_8_16(
    const unsigned (&left)[4], unsigned right_low, unsigned right_high, float (&product)[4]) {
  const int lane = threadIdx.x % 32, row = lane / 4, column = lane % 4 * 2;
  const Words* all = exchanged(
      Words{{left[0], left[1], left[2], left[3], right_low, right_high}}, PRODUCT);
  for (int i = 0; i < 4; ++i) product[i] = 0.f;
  for (int k = 0; k < 16; ++k) {
    const int place = k % 8 / 2, shift = k % 2 * 16, second = k / 8;
    const auto half = [&](int of, int word) {
      return __uint_as_float(all[of * 4 + place].word[word] >> shift << 16);
    };
    const float a[2] = {half(row, 2 * second), half(row, 1 + 2 * second)};  // rows r and r + 8
    const float b[2] = {half(column, 4 + second), half(column + 1, 4 + second)};
    for (int i = 0; i < 4; ++i) product[i] += a[i / 2] * b[i % 2];
  }
}

template <class... A, std::size_t... I>
__attribute__((no_sanitize_address)) inline void call(
    void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*(A*)arguments[I]...);
}
template <class... A>
__attribute__((no_sanitize_address)) inline void call(void (*kernel)(A...), void** arguments) {
  call(kernel, arguments, std::index_sequence_for<A...>{});
}

template <class... A>
inline bool takes(void (*)(A...), const std::size_t* sizes, unsigned count) {
  const std::size_t own[] = {sizeof(A)...};
  return count == sizeof...(A) && std::equal(own, own + count, sizes);
}

}  // namespace

// Behind the sources, once a kernel.
#define HOST_KERNEL(name)                                                                   \
  extern "C" void run_##name(void** arguments, const std::size_t* sizes, unsigned count,    \
                             unsigned blocks, unsigned rows, unsigned threads) {            \
    if (!takes(name, sizes, count))                                                         \
      return refuse_to_run("its arguments are others, by their number or sizes");           \
    run_blocks([](void** given) { call(name, given); }, arguments, blocks, rows, threads);  \
  }
