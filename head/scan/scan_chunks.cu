// What the chunks of a sequence leave to each other, so that all can be scanned at once; scan_tile.cuh
// stands before this.
//
// A chunk that begins with the states h ends with those that it makes of none, plus exp(A * sum of dt) h:
// one pass finds both summands for every chunk, and a short one goes through the chunks. The carried
// gradient is linear in the same way, from the end on. Compiled CHUNKED, and with
//   BACKWARD 0: the states before each chunk; `values` is u, `projection` B,
//            1: the carried gradient behind each chunk; `values` is dy, `projection` C.

// left (X, B, chunks, E, N) and steps (X, B, chunks, E), the sums of dt. Nothing is written of the
// chunk that leaves to none.
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS_FORWARD) walk_chunks(
    const Value* __restrict__ values, const Value* __restrict__ delta, const float* __restrict__ A,
    const Value* __restrict__ projection, const float* __restrict__ bias,
    const int* __restrict__ lengths, float* __restrict__ left, float* __restrict__ steps, Shape s,
    Stride sv, Stride sd, Stride sp, int tiles_each) {
  __shared__ __align__(16) float tile_dt[TILE][ROW], tile_x[TILE][ROW], tile_P[TILE][N_STATE];
  __shared__ __align__(16) float biases[CHANNELS];
  if (CHUNK == (BACKWARD ? 0 : NUM_CHUNKS - 1)) return;
  const Place p(s, lengths);
  const Span tiles(s, tiles_each);
  float rate[4], h[4] = {0.f, 0.f, 0.f, 0.f}, sum = 0.f;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    rate[i] = p.e < s.width ? A[((i64)p.x * s.width + p.e) * N_STATE + p.q * 4 + i] * LOG2E : 0.f;
  for (int c = p.tid; c < CHANNELS; c += THREADS) {
    const int e = p.block * CHANNELS + c;
    biases[c] = e < s.width ? bias[p.x * s.width + e] : 0.f;
  }
  values += p.x * sv.x + p.b * sv.b;
  delta += p.x * sd.x + p.b * sd.b;
  projection += p.x * sp.x + p.b * sp.b;

  for (int k = 0; k < tiles.end - tiles.first; ++k) {
    const int first = (BACKWARD ? tiles.end - 1 - k : tiles.first + k) * TILE;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
      const Piece piece(p, s, i);
      if (!piece.is_there) continue;
      float dt[8] = {}, x[8] = {};
      if (first + piece.t < p.length) {
        const int at = p.position(first + piece.t);
        float raw[8], shift[8];
        widen(load8(delta + row_at(at, sd.l) + piece.channel, piece.left), raw);
        widen(load8(values + row_at(at, sv.l) + piece.channel, piece.left), x);
        read8(&biases[piece.group * 8], shift);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          dt[j] = softplus(raw[j] + shift[j]);
          x[j] *= BACKWARD ? 1.f : dt[j];
        }
      }
      write8(&tile_dt[piece.t][piece.group * 8], dt);
      write8(&tile_x[piece.t][piece.group * 8], x);
    }
    for (int i = p.tid; i < TILE * (N_STATE / 8); i += THREADS) {
      const int t = i / (N_STATE / 8), n = i % (N_STATE / 8) * 8;
      float f[8] = {};
      if (first + t < p.length)
        widen(load8(projection + (i64)p.position(first + t) * sp.l + n, 8), f);
      write8(&tile_P[t][n], f);
    }
    __syncthreads();
#pragma unroll 4
    for (int i = 0; i < TILE; ++i) {
      const int t = BACKWARD ? TILE - 1 - i : i;
      const float dt = tile_dt[t][p.c], x = tile_x[t][p.c];
      const float4 f = read4(&tile_P[t][p.q * 4]);
      const float projected[4] = {f.x, f.y, f.z, f.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float decay = exp2_fast(dt * rate[j]);
        h[j] = BACKWARD ? decay * fmaf(projected[j], x, h[j]) : fmaf(decay, h[j], x * projected[j]);
      }
      sum += dt;
    }
  }
  if (p.e >= s.width) return;
  const i64 at = of_chunk(p, s) + p.e;
  *(float4*)&left[at * N_STATE + p.q * 4] = make_float4(h[0], h[1], h[2], h[3]);
  if (p.q == 0) steps[at] = sum;
}

// What each chunk leaves becomes what it begins with. A thread has one state of a channel.
extern "C" __global__ void __launch_bounds__(THREADS) join_chunks(
    float* __restrict__ left, const float* __restrict__ steps, const float* __restrict__ A, Shape s,
    int chunks) {
  const i64 states = (i64)s.width * N_STATE, i = (i64)blockIdx.x * THREADS + threadIdx.x;
  if (i >= s.directions * s.videos * states) return;
  const i64 row = i / states, state = i % states, e = state / N_STATE;
  const float rate = A[row / s.videos * states + state] * LOG2E;
  float begin = 0.f;
  for (int k = 0; k < chunks; ++k) {
    const i64 chunk = row * chunks + (BACKWARD ? chunks - 1 - k : k);
    float* its = &left[chunk * states + state];
    const float end = k + 1 < chunks ? *its : 0.f;
    const float passed = k + 1 < chunks ? steps[chunk * s.width + e] : 0.f;
    *its = begin;
    begin = fmaf(exp2_fast(passed * rate), begin, end);
  }
}
