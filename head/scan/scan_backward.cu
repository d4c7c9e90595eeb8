// The gradient of the selective scan; scan_tile.cuh stands before this.
//
// With g_t the gradient of h_t: g_t = C_t dy_t + exp(dt_{t+1} A) g_{t+1}, tile by tile from the last.
// A tile's states, or those of half of it, are made again from the ones that the forward kept, in
// registers. Gradients of B and C are sums over all channels: over a warp's by products or shuffles,
// over a block's in shared memory, over the blocks by the caller, always in the same order.
// `ddelta` may be `delta`: a thread writes where none but it has read, and behind its reading.

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS_BACKWARD) scan_backward(
    const Value* __restrict__ u, const Value* delta, const float* __restrict__ A,
    const Value* __restrict__ B, const Value* __restrict__ C, const float* __restrict__ D,
    const float* __restrict__ bias, const int* __restrict__ lengths, const Value* __restrict__ dy,
    const Kept* __restrict__ kept, Value* __restrict__ du, Value* ddelta,
    float* __restrict__ dA, Kept* __restrict__ dBC, float* __restrict__ dD,
    float* __restrict__ dbias, Shape s, Stride su, Stride sd, Stride sB, Stride sC, Stride sy,
    Stride sdu, Stride sdd OF_CHUNK) {
  __shared__ __align__(16) float2 tile_dt_x[TILE][CHANNELS];
  __shared__ __align__(16) float tile_dy[TILE][ROW];
  __shared__ __align__(16) float tile_B[TILE][N_STATE], tile_C[TILE][N_STATE];
  __shared__ __align__(16) float part[WARPS][HALF][SUMS];
  __shared__ __align__(16) float skips[CHANNELS], biases[CHANNELS];
  const Place p(s, lengths);
  load_constants(D, bias, p, s, skips, biases);
  float rate[4], carried[4] = {0.f, 0.f, 0.f, 0.f}, rate_gradient[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    rate[i] = p.e < s.width ? A[((i64)p.x * s.width + p.e) * N_STATE + p.q * 4 + i] * LOG2E : 0.f;
  // Of D and the bias, over this warp's tokens: eight channels each, spread over the lanes.
  constexpr int OWN = LEFT_OF(16, 32 / GROUPS);
  float totals[OWN] = {};
  const Span tiles(s, chunk_tiles);
  begin_with(begins, p, s, carried);
  u += p.x * su.x + p.b * su.b;
  delta += p.x * sd.x + p.b * sd.b;
  dy += p.x * sy.x + p.b * sy.b;
  du += p.x * sdu.x + p.b * sdu.b;
  ddelta += p.x * sdd.x + p.b * sdd.b;
#if SUMS_BY_PRODUCTS
  const Ones ones(p.lane);
#endif
  const i64 row = (i64)p.x * s.videos + p.b;
  Eight own_u[PIECES];
  Held<8> own_dt[PIECES];
  const int pair = pair_of(p.c);
  auto walk = [&](int t, float (&h)[4]) {
    const float dt = tile_dt_x[t][pair].x, x = tile_dt_x[t][pair].y;
    const float4 b = read4(&tile_B[t][p.q * 4]);
    h[0] = fmaf(exp2_again(dt * rate[0]), h[0], x * b.x);
    h[1] = fmaf(exp2_again(dt * rate[1]), h[1], x * b.y);
    h[2] = fmaf(exp2_again(dt * rate[2]), h[2], x * b.z);
    h[3] = fmaf(exp2_again(dt * rate[3]), h[3], x * b.w);
  };
  __syncthreads();

  for (int tile = tiles.end - 1; tile >= tiles.first; --tile) {
    const int first = tile * TILE;
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const Piece piece(p, s, k);
      if (piece.t >= TILE) continue;
      float dt[8], x[8], g[8];
      if (piece.is_there && first + piece.t < p.length) {
        const int at = p.position(first + piece.t);
        const Eight raw8 = load8(delta + row_at(at, sd.l) + piece.channel, piece.left);
        own_u[k] = load8(u + row_at(at, su.l) + piece.channel, piece.left);
        widen(load8(dy + row_at(at, sy.l) + piece.channel, piece.left), g);
        float raw[8], value[8], shift[8];
        widen(raw8, raw);
        widen(own_u[k], value);
        read8(&biases[piece.group * 8], shift);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          dt[i] = HAS(i, piece.left) ? softplus(raw[i] + shift[i]) : 0.f;
          x[i] = dt[i] * value[i];
        }
        own_dt[k] = held(dt);
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) dt[i] = x[i] = g[i] = 0.f;
      }
      write_pairs(tile_dt_x[piece.t], piece.group, dt, x);
      write8(&tile_dy[piece.t][piece.group * 8], g);
    }
    load_projections(B, C, sB, sC, p, first, tile_B, tile_C);
    Four start = {};
    if (p.e < s.width)
      start = *(const Four*)&kept[((row * s.tiles + tile) * s.width + p.e) * N_STATE + p.q * 4];
    __syncthreads();
#if SPAN < TILE
    float middle[4];
    read(start, middle);
#pragma unroll 4
    for (int t = 0; t < SPAN; ++t) walk(t, middle);
#endif
#pragma unroll 1
    for (int base = TILE - SPAN; base >= 0; base -= SPAN) {
      float running[4];
      Four before, h[SPAN];
#if SPAN < TILE
      before = base ? held(middle) : start;
#else
      before = start;
#endif
      read(before, running);
#pragma unroll
      for (int t = 0; t < SPAN; ++t) {
        walk(base + t, running);
        h[t] = held(running);
      }
#pragma unroll
      for (int t0 = SPAN - 4; t0 >= 0; t0 -= 4) {
        float x_gradient[4], dt_gradient[4];
#pragma unroll
        for (int j = 3; j >= 0; --j) {
          const int t = t0 + j;
          const float dt = tile_dt_x[base + t][pair].x, x = tile_dt_x[base + t][pair].y;
          const float g_y = tile_dy[base + t][p.c];
          const float4 b4 = read4(&tile_B[base + t][p.q * 4]);
          const float4 c4 = read4(&tile_C[base + t][p.q * 4]);
          const float b[4] = {b4.x, b4.y, b4.z, b4.w}, c[4] = {c4.x, c4.y, c4.z, c4.w};
          float g[4], last[4], to_x = 0.f, to_dt = 0.f;
          read(t ? h[t - (t > 0)] : before, last);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            g[i] = fmaf(c[i], g_y, carried[i]);
            to_x = i ? fmaf(b[i], g[i], to_x) : b[i] * g[i];
            carried[i] = exp2_fast(dt * rate[i]) * g[i];
            const float exponent = carried[i] * last[i];
            to_dt = i ? fmaf(rate[i], exponent, to_dt) : rate[i] * exponent;
            rate_gradient[i] = fmaf(dt, exponent, rate_gradient[i]);
          }
          x_gradient[j] = to_x;
          dt_gradient[j] = to_dt;
          float* sums_of_warp = part[p.warp][t % HALF];
#if SUMS_BY_PRODUCTS
          const float of_B = over_channels(times(held(g), two_bf16_of(x, x)), ones);
          const float of_C = over_channels(times(h[t], both_halves_of(g_y)), ones);
          sums_of_warp[p.lane / 16 * N_STATE + p.lane % 4 * 4 + p.lane / 4 % 4] =
              p.lane < 16 ? of_B : of_C;
#else
          float sums[8], now[4];  // of 4 states' B, then of their C
          read(h[t], now);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sums[i] = g[i] * x;
            sums[4 + i] = now[i] * g_y;
          }
          const int index = reduce<8, WARP_CHANNELS / 2, 1>(sums, p.lane);
#pragma unroll
          for (int k = 0; k < LEFT_OF(8, WARP_CHANNELS); ++k) {
            const int value = index + k;
            sums_of_warp[(value / 4) * N_STATE + p.q * 4 + value % 4] = sums[k];
          }
#endif
        }
        const int index = reduce<4, 16, WARP_CHANNELS>(x_gradient, p.lane);
        reduce<4, 16, WARP_CHANNELS>(dt_gradient, p.lane);
        __syncwarp();
#pragma unroll
        for (int j = 0; j < LEFT_OF(4, SPLIT); ++j)
          tile_dt_x[base + t0 + index + j][pair] = make_float2(dt_gradient[j], x_gradient[j]);
        if (t0 % HALF) continue;
        // Half a tile is done: its sums, over the block's warps.
        __syncthreads();
#pragma unroll
        for (int k = 0; k < ROUNDS(HALF * SUMS / 2); ++k) {
          const int i = p.tid + k * THREADS;
          if (HALF * SUMS / 2 % THREADS && i >= HALF * SUMS / 2) continue;
          const int t = i / (SUMS / 2), value = i % (SUMS / 2) * 2, step = first + base + t0 + t;
          float sum[2] = {0.f, 0.f};
#pragma unroll
          for (int w = 0; w < WARPS; ++w) {
            sum[0] += part[w][t][value];
            sum[1] += part[w][t][value + 1];
          }
          if (step < s.length)
            *(Held<2>*)&dBC[((row * s.length + p.position(step)) * s.blocks + p.block) * SUMS +
                            value] = held(sum);
        }
        if (base + t0) __syncthreads();
      }
    }
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const Piece piece(p, s, k);
      float of_D_bias[16] = {};
      if (piece.is_there && first + piece.t < s.length) {
        const int at = p.position(first + piece.t);
        float to_u[8] = {}, to_delta[8] = {};
        if (first + piece.t < p.length) {
          float to_x[8], to_dt[8], g_y[8], value[8], dt[8], skip[8];
          widen(own_u[k], value);
          read(own_dt[k], dt);
          read_pairs(tile_dt_x[piece.t], piece.group, to_dt, to_x);
          read8(&tile_dy[piece.t][piece.group * 8], g_y);
          read8(&skips[piece.group * 8], skip);
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            to_u[i] = fmaf(to_x[i], dt[i], skip[i] * g_y[i]);
            to_delta[i] = fmaf(to_x[i], value[i], LN2 * to_dt[i]) * softplus_slope(dt[i]);
            of_D_bias[i] = value[i] * g_y[i];
            of_D_bias[8 + i] = to_delta[i];
          }
        }
        store8(du + row_at(at, sdu.l) + piece.channel, to_u, piece.left);
        store8(ddelta + row_at(at, sdd.l) + piece.channel, to_delta, piece.left);
      }
      reduce<16, 16, GROUPS>(of_D_bias, p.lane);
#pragma unroll
      for (int i = 0; i < OWN; ++i) totals[i] += of_D_bias[i];
    }
  }
  if (p.e < s.width)
    *(float4*)&dA[(of_chunk(p, s) + p.e) * N_STATE + p.q * 4] =
        make_float4(rate_gradient[0], rate_gradient[1], rate_gradient[2], rate_gradient[3]);
  // Sums of D and bias: over the warps, in order, so that a run repeats.
  float* sums = &part[0][0][0];
  __syncthreads();
  {
    float none[16] = {};
    const int index = reduce<16, 16, GROUPS>(none, p.lane);
    const int group = p.lane % GROUPS;
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
      const int value = index + i;  // eight channels of D, then of the bias
      sums[(p.warp * 2 + value / 8) * CHANNELS + group * 8 + value % 8] = totals[i];
    }
  }
  __syncthreads();
  for (int c = p.tid; c < CHANNELS; c += THREADS) {
    const int e = p.block * CHANNELS + c;
    if (e >= s.width) continue;
    float of_D = 0.f, of_bias = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      of_D += sums[(w * 2) * CHANNELS + c];
      of_bias += sums[(w * 2 + 1) * CHANNELS + c];
    }
    dD[of_chunk(p, s) + e] = of_D;
    dbias[of_chunk(p, s) + e] = of_bias;
  }
}
