// What the selective scan and its gradient share, channels last, for GPUs from sm_80 on.
//
// Legend: X directions, B videos, L tokens, E inner width, N states a channel.
// A thread keeps 4 of a channel's N states in registers and walks the sequence; SPLIT = N / 4 lanes
// of a warp share a channel. A block has CHANNELS channels of one direction of one video. Tokens
// come in tiles through shared memory, as [token][channel], loaded eight channels at a time.
// Compiled with
//   N_STATE  N: 8, 16, 32 or 64,
//   THREADS  of a block,
//   TILE     tokens of a tile; the forward keeps the states before each,
//   DTYPE    of values.cuh, which stands before this; states are float32,
//   ALIGNED  1 if eight neighbouring channels can be read in one piece,
//   CHUNKED  1 if sequences are cut into chunks of whole tiles, which blocks along y walk at once.

#define HALF (TILE / 2)               // of which a block sums B's and C's gradients at once
#if DTYPE == 1
#define SPAN TILE                     // tokens whose states the backward has in registers
#else
#define SPAN HALF
#endif
#define SPLIT (N_STATE / 4)           // lanes of a channel
#define WARP_CHANNELS (32 / SPLIT)
#define WARPS (THREADS / 32)
#define CHANNELS (WARPS * WARP_CHANNELS)
#define GROUPS (CHANNELS / 8)         // of channels that are loaded in one piece
#define ROUNDS(count) (((count) + THREADS - 1) / THREADS)  // in which a block does so many things
#define PIECES ROUNDS(TILE * GROUPS)  // that a thread loads of a tile
#define ROW (CHANNELS + 8)            // of a tile; the padding spreads a channel's lanes over banks
#define SUMS (2 * N_STATE)            // gradients of B and C at a token
#define FULL 0xffffffffu
#ifndef CHUNKED
#define CHUNKED 0
#endif
#define CHUNK (CHUNKED ? (int)blockIdx.y : 0)  // that a block has of its sequence
#define NUM_CHUNKS (CHUNKED ? (int)gridDim.y : 1)
#define HAS(i, left) (ALIGNED || (i) < (left))  // of eight channels, the i-th
#define MIN_BLOCKS_FORWARD (768 / THREADS)
#define MIN_BLOCKS_BACKWARD (512 / THREADS)

#if DTYPE == 1
typedef Value Kept;                   // of a state that waits for the gradient, and of a partial sum
#else
typedef float Kept;                   // float16 could not hold every state
#endif

#if DTYPE == 0
struct Eight { uint4 low, high; };
#else
struct Eight { uint4 low; };
#endif

// Values of a thread that wait, in memory or in its registers: states, or steps.
#if DTYPE == 1
template <int N> struct __align__(2 * N) Held { unsigned v[N / 2]; };
template <int N> __device__ __forceinline__ Held<N> held(const float (&f)[N]) {
  Held<N> out;
#pragma unroll
  for (int i = 0; i < N / 2; ++i) out.v[i] = two_bf16_of(f[2 * i], f[2 * i + 1]);
  return out;
}
template <int N> __device__ __forceinline__ void read(const Held<N>& from, float (&f)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i)
    f[i] = __uint_as_float(i % 2 ? from.v[i / 2] & 0xffff0000u : from.v[i / 2] << 16);
}
#else
template <int N> struct __align__(16) Held { float v[N]; };
template <int N> __device__ __forceinline__ Held<N> held(const float (&f)[N]) {
  Held<N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) out.v[i] = f[i];
  return out;
}
template <int N> __device__ __forceinline__ void read(const Held<N>& from, float (&f)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) f[i] = from.v[i];
}
#endif
typedef Held<4> Four;

// log(1 + e^v): a series where e^v is small, since the logarithm's error there is not; as much of it
// as the values have digits.
__device__ __forceinline__ float softplus(float v) {
  const float e = exp2_fast(fminf(v, 20.f) * LOG2E);
  const float more = DTYPE == 1 ? 1.f / 3.f : fmaf(e, fmaf(e, 0.2f, -0.25f), 1.f / 3.f);
  const float series = e * fmaf(e, fmaf(e, more, -0.5f), 1.f);
  const float small = e < 0.0625f ? series : __logf(1.f + e);
  return v > 20.f ? v : small;
}

// Its derivative where its value is dt: 1 - e^-dt, and a series where that would cancel.
__device__ __forceinline__ float softplus_slope(float dt) {
  const float more = DTYPE == 1 ? 1.f / 6.f : fmaf(dt, -1.f / 24.f, 1.f / 6.f);
  const float series = dt * fmaf(dt, fmaf(dt, more, -0.5f), 1.f);
  return dt < 0.0625f ? series : 1.f - exp2_fast(-dt * LOG2E);
}

struct Shape {
  int directions, videos, length, width, tiles, blocks;  // blocks: of channels
  int reversed;                                          // bit x: direction x walks from the end
};

// Eight neighbouring values; zeros behind the `left` that there are.
__device__ __forceinline__ Eight load8(const Value* p, int left) {
  Eight got;
#if ALIGNED
  got.low = *(const uint4*)p;
#if DTYPE == 0
  got.high = *(const uint4*)(p + 4);
#endif
#else
  Value* v = (Value*)&got;
#pragma unroll
  for (int k = 0; k < 8; ++k) v[k] = k < left ? p[k] : (Value)0;
#endif
  return got;
}
__device__ __forceinline__ void store8(Value* p, const float (&f)[8], int left) {
  Eight out;
  Value* v = (Value*)&out;
#pragma unroll
  for (int k = 0; k < 8; ++k) v[k] = narrow(f[k]);
#if ALIGNED
  *(uint4*)p = out.low;
#if DTYPE == 0
  *(uint4*)(p + 4) = out.high;
#endif
#else
#pragma unroll
  for (int k = 0; k < 8; ++k) if (k < left) p[k] = v[k];
#endif
}
__device__ __forceinline__ void widen(const Eight& from, float (&f)[8]) {
#if DTYPE == 1
  const unsigned words[4] = {from.low.x, from.low.y, from.low.z, from.low.w};
#pragma unroll
  for (int k = 0; k < 8; ++k)
    f[k] = __uint_as_float(k % 2 ? words[k / 2] & 0xffff0000u : words[k / 2] << 16);
#else
  const Value* v = (const Value*)&from;
#pragma unroll
  for (int k = 0; k < 8; ++k) f[k] = wide(v[k]);
#endif
}

// Sums `COUNT` values over the lanes that differ in the bits of masks HIGH ... LOW. Each round
// halves what a lane holds until one value is left; returns the index of a lane's first value.
template <int COUNT, int HIGH, int LOW>
__device__ __forceinline__ int reduce(float (&v)[COUNT], int lane) {
  int index = 0, count = COUNT;
#pragma unroll
  for (int mask = HIGH; mask >= LOW && mask > 0; mask >>= 1) {
    if (count > 1) {
      count >>= 1;
      const bool up = lane & mask;
#pragma unroll
      for (int i = 0; i < COUNT / 2; ++i)
        if (i < count) {
          const float send = up ? v[i] : v[i + count];
          const float keep = up ? v[i + count] : v[i];
          v[i] = keep + __shfl_xor_sync(FULL, send, mask);
        }
      index += up ? count : 0;
    } else {
      v[0] += __shfl_xor_sync(FULL, v[0], mask);
    }
  }
  return index;
}
#define LEFT_OF(count, lanes) ((count) > (lanes) ? (count) / (lanes) : 1)

// Sums of eight values over the eight channels of a warp by tensor cores, for whose bfloat16 each is
// rounded before it is added. The four lanes of a channel and its neighbour's lie along K of a
// product's right side, four values each; every row of the left side has a one where one value is.
#define SUMS_BY_PRODUCTS (DTYPE == 1 && N_STATE == 16)
#if SUMS_BY_PRODUCTS
struct Ones {
  // As the product takes its left side. Rows 8 to 15, whose sums nobody reads, are of the next value
  // each: if they repeated the others, the compiler would keep those alone and copy them each time.
  unsigned v[4];
  __device__ __forceinline__ Ones(int lane) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int value = (lane / 4 + i % 2) % 4;
      v[i] = value / 2 != i / 2 ? 0u : value % 2 ? 0x3f800000u : 0x3f80u;  // 1.0, upper or lower
      stay(v[i]);
    }
  }
};
// Value lane / 4 % 4 of the states of lane % 4.
__device__ __forceinline__ float over_channels(const Four& values, const Ones& ones) {
  float d[4];
  multiply_16_8_16(ones.v, values.v[0], values.v[1], d);
  return d[0] + d[1];  // four channels each
}
__device__ __forceinline__ Four times(const Four& values, unsigned factor) {
  return {products_of_bf16(values.v[0], factor), products_of_bf16(values.v[1], factor)};
}
#endif

struct Place {  // of a thread and of its block
  int tid, lane, warp, q, c, e, x, b, block, length;
  bool reversed;
  __device__ Place(const Shape& s, const int* lengths) {
    tid = threadIdx.x; lane = tid & 31; warp = tid >> 5;
    q = lane / WARP_CHANNELS; c = warp * WARP_CHANNELS + lane % WARP_CHANNELS;
    const int row = blockIdx.x / s.blocks;
    block = blockIdx.x % s.blocks; x = row / s.videos; b = row % s.videos;
    e = block * CHANNELS + c;
    length = lengths ? lengths[b] : s.length;
    reversed = (s.reversed >> x) & 1;
  }
  __device__ __forceinline__ int position(int t) const {
    return reversed && t < length ? length - 1 - t : t;
  }
};

struct Piece {  // eight channels of one token, that a thread loads
  int t, group, channel, left;
  bool is_there;
  __device__ __forceinline__ Piece(const Place& p, const Shape& s, int k) {
    const int i = p.tid + k * THREADS;
    t = i / GROUPS; group = i % GROUPS;
    channel = p.block * CHANNELS + group * 8;
    left = s.width - channel;
    is_there = i < TILE * GROUPS && left > 0;
  }
};

__device__ __forceinline__ float4 read4(const float* p) { return *(const float4*)p; }
__device__ __forceinline__ void write8(float* p, const float (&f)[8]) {
  *(float4*)p = make_float4(f[0], f[1], f[2], f[3]);
  *(float4*)(p + 4) = make_float4(f[4], f[5], f[6], f[7]);
}
__device__ __forceinline__ void read8(const float* p, float (&f)[8]) {
  const float4 a = read4(p), b = read4(p + 4);
  f[0] = a.x; f[1] = a.y; f[2] = a.z; f[3] = a.w; f[4] = b.x; f[5] = b.y; f[6] = b.z; f[7] = b.w;
}

// What a kernel takes beside all else if sequences are cut: what each chunk begins with, (X, B, chunks,
// E, N), and how many tiles it has. `begins` are states, or in the backward the carried gradient.
#if CHUNKED
#define OF_CHUNK , const float* __restrict__ begins, int chunk_tiles
#else
#define OF_CHUNK
#define begins ((const float*)nullptr)
#define chunk_tiles s.tiles
#endif
struct Span {  // of tiles that a block walks
  int first, end;
  __device__ __forceinline__ Span(const Shape& s, int tiles) {
    first = CHUNK * tiles; end = min(first + tiles, s.tiles);
  }
};
// Where a block's chunk has a value of its first channel, in (X, B, chunks, E).
__device__ __forceinline__ i64 of_chunk(const Place& p, const Shape& s) {
  return (((i64)p.x * s.videos + p.b) * NUM_CHUNKS + CHUNK) * s.width;
}
__device__ __forceinline__ void begin_with(
    const float* from, const Place& p, const Shape& s, float (&v)[4]) {
  if (!CHUNKED || p.e >= s.width) return;
  const float4 f = read4(&from[(of_chunk(p, s) + p.e) * N_STATE + p.q * 4]);
  v[0] = f.x; v[1] = f.y; v[2] = f.z; v[3] = f.w;
}

// Two values a channel, side by side, so that a channel's lanes read them at once. A piece is eight
// channels in four parts of two; part j of all groups is one row of banks, each row turned by one
// group more, so that threads that write a part and lanes that read a group meet no bank twice.
__device__ __forceinline__ int part_of(int group, int j) {
  return (j * GROUPS + (group + j) % GROUPS) * 2;
}
__device__ __forceinline__ int pair_of(int c) { return part_of(c / 8, c % 8 / 2) + c % 2; }
__device__ __forceinline__ void write_pairs(
    float2* row, int group, const float (&a)[8], const float (&b)[8]) {
#pragma unroll
  for (int j = 0; j < 4; ++j)
    *(float4*)&row[part_of(group, j)] = make_float4(a[2 * j], b[2 * j], a[2 * j + 1], b[2 * j + 1]);
}
__device__ __forceinline__ void read_pairs(
    const float2* row, int group, float (&a)[8], float (&b)[8]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float4 f = *(const float4*)&row[part_of(group, j)];
    a[2 * j] = f.x; b[2 * j] = f.y; a[2 * j + 1] = f.z; b[2 * j + 1] = f.w;
  }
}

// D and the bias of the block's channels, zeros behind the width.
__device__ __forceinline__ void load_constants(
    const float* D, const float* bias, const Place& p, const Shape& s, float* skips,
    float* biases) {
  for (int c = p.tid; c < CHANNELS; c += THREADS) {
    const int e = p.block * CHANNELS + c;
    skips[c] = e < s.width ? D[p.x * s.width + e] : 0.f;
    biases[c] = e < s.width ? bias[p.x * s.width + e] : 0.f;
  }
}

// B and C of a tile, zeros behind the end.
__device__ __forceinline__ void load_projections(
    const Value* B, const Value* C, Stride sB, Stride sC, const Place& p, int first,
    float (*tile_B)[N_STATE], float (*tile_C)[N_STATE]) {
#pragma unroll
  for (int k = 0; k < ROUNDS(2 * TILE * (N_STATE / 8)); ++k) {
    const int i = p.tid + k * THREADS;
    if (i >= 2 * TILE * (N_STATE / 8)) continue;
    const bool is_C = i >= TILE * (N_STATE / 8);
    const int j = is_C ? i - TILE * (N_STATE / 8) : i;
    const int t = j / (N_STATE / 8), n = j % (N_STATE / 8) * 8;
    float f[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    if (first + t < p.length) {
      const int at = p.position(first + t);
      const Value* from = is_C ? C + p.x * sC.x + p.b * sC.b + row_at(at, sC.l)
                               : B + p.x * sB.x + p.b * sB.b + row_at(at, sB.l);
      widen(load8(from + n, 8), f);
    }
    write8(is_C ? &tile_C[t][n] : &tile_B[t][n], f);
  }
}
