// The selective scan; scan_tile.cuh stands before this and says how the work is divided.
//
// h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t and y_t = C_t h_t + D u_t, with dt = softplus(delta + bias).
// A tile's next values are on their way while this one is scanned. The states before each tile are
// kept for the gradient.

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS_FORWARD) scan_forward(
    const Value* __restrict__ u, const Value* __restrict__ delta, const float* __restrict__ A,
    const Value* __restrict__ B, const Value* __restrict__ C, const float* __restrict__ D,
    const float* __restrict__ bias, const int* __restrict__ lengths, Value* __restrict__ y,
    Kept* __restrict__ kept, Shape s, Stride su, Stride sd, Stride sB, Stride sC, Stride sy
    OF_CHUNK) {
  __shared__ __align__(16) float2 tile_dt_x[TILE][CHANNELS];  // x becomes y
  __shared__ __align__(16) float tile_B[TILE][N_STATE], tile_C[TILE][N_STATE];
  __shared__ __align__(16) float skips[CHANNELS], biases[CHANNELS];
  const Place p(s, lengths);
  float rate[4], h[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    rate[i] = p.e < s.width ? A[((i64)p.x * s.width + p.e) * N_STATE + p.q * 4 + i] * LOG2E : 0.f;
  load_constants(D, bias, p, s, skips, biases);
  const Span tiles(s, chunk_tiles);
  begin_with(begins, p, s, h);
  u += p.x * su.x + p.b * su.b;
  delta += p.x * sd.x + p.b * sd.b;
  y += p.x * sy.x + p.b * sy.b;

  Eight own_u[PIECES], next_u[PIECES], next_delta[PIECES];
  auto fetch = [&](int tile) {
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const Piece piece(p, s, k);
      const int step = tile * TILE + piece.t;
      if (piece.is_there && step < p.length) {
        const int at = p.position(step);
        next_u[k] = load8(u + row_at(at, su.l) + piece.channel, piece.left);
        next_delta[k] = load8(delta + row_at(at, sd.l) + piece.channel, piece.left);
      }
    }
  };
  const int pair = pair_of(p.c);
  fetch(tiles.first);
  for (int tile = tiles.first; tile < tiles.end; ++tile) {
    const int first = tile * TILE;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const Piece piece(p, s, k);
      if (!piece.is_there) continue;
      float dt[8] = {}, x[8] = {};
      own_u[k] = Eight{};
      if (first + piece.t < p.length) {
        float value[8], raw[8], shift[8];
        own_u[k] = next_u[k];
        widen(next_u[k], value);
        widen(next_delta[k], raw);
        read8(&biases[piece.group * 8], shift);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          dt[i] = softplus(raw[i] + shift[i]);
          x[i] = dt[i] * value[i];
        }
      }
      write_pairs(tile_dt_x[piece.t], piece.group, dt, x);
    }
    load_projections(B, C, sB, sC, p, first, tile_B, tile_C);
    if (tile + 1 < tiles.end) fetch(tile + 1);
    __syncthreads();
    if (kept && p.e < s.width)
      *(Four*)&kept[((((i64)p.x * s.videos + p.b) * s.tiles + tile) * s.width + p.e) * N_STATE +
                    p.q * 4] = held(h);
#pragma unroll 2
    for (int t0 = 0; t0 < TILE; t0 += 4) {
      float sum[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float dt = tile_dt_x[t0 + j][pair].x, x = tile_dt_x[t0 + j][pair].y;
        const float4 b = read4(&tile_B[t0 + j][p.q * 4]), c = read4(&tile_C[t0 + j][p.q * 4]);
        h[0] = fmaf(exp2_fast(dt * rate[0]), h[0], x * b.x);
        h[1] = fmaf(exp2_fast(dt * rate[1]), h[1], x * b.y);
        h[2] = fmaf(exp2_fast(dt * rate[2]), h[2], x * b.z);
        h[3] = fmaf(exp2_fast(dt * rate[3]), h[3], x * b.w);
        sum[j] = fmaf(h[0], c.x, h[1] * c.y) + fmaf(h[2], c.z, h[3] * c.w);
      }
      const int index = reduce<4, 16, WARP_CHANNELS>(sum, p.lane);
      __syncwarp();
#pragma unroll
      for (int j = 0; j < LEFT_OF(4, SPLIT); ++j) tile_dt_x[t0 + index + j][pair].y = sum[j];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const Piece piece(p, s, k);
      if (!piece.is_there || first + piece.t >= s.length) continue;
      float out[8], skip[8], value[8], dt[8];
      read_pairs(tile_dt_x[piece.t], piece.group, dt, out);
      read8(&skips[piece.group * 8], skip);
      widen(own_u[k], value);
#pragma unroll
      for (int i = 0; i < 8; ++i) out[i] = fmaf(skip[i], value[i], out[i]);
      store8(y + row_at(p.position(first + piece.t), sy.l) + piece.channel, out, piece.left);
    }
  }
}
