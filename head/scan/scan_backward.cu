// The gradient of the selective scan; scan_tile.cuh stands before this.
//
// With g_t the gradient of h_t: g_t = C_t dy_t + exp(dt_{t+1} A) g_{t+1}, tile by tile from the last.
// Half a tile's states are made again from the ones that the forward kept, in registers. Gradients
// of B and C are sums over all channels: over a warp's by shuffles, over a block's in shared memory,
// over the blocks by the caller, always in the same order.

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS_BACKWARD) scan_backward(
    const Value* __restrict__ u, const Value* __restrict__ delta, const float* __restrict__ A,
    const Value* __restrict__ B, const Value* __restrict__ C, const float* __restrict__ D,
    const float* __restrict__ bias, const int* __restrict__ lengths, const Value* __restrict__ dy,
    const Kept* __restrict__ kept, Value* __restrict__ du, Value* __restrict__ ddelta,
    float* __restrict__ dA, float* __restrict__ dBC, float* __restrict__ dD,
    float* __restrict__ dbias, Shape s, Stride su, Stride sd, Stride sB, Stride sC, Stride sy,
    Stride sdu, Stride sdd OF_CHUNK) {
  __shared__ __align__(16) float tile_dt[TILE][ROW], tile_x[TILE][ROW], tile_dy[TILE][ROW];
  __shared__ __align__(16) float tile_B[TILE][N_STATE], tile_C[TILE][N_STATE];
  __shared__ __align__(16) float part[WARPS][HALF][SUMS];
  const Place p(s, lengths);
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
  auto constants = [&](const float* from, const Piece& piece, float (&f)[8]) {
    from += p.x * s.width + piece.channel;
#if ALIGNED
    read8(from, f);
#else
#pragma unroll
    for (int i = 0; i < 8; ++i) f[i] = i < piece.left ? from[i] : 0.f;
#endif
  };

  for (int tile = tiles.end - 1; tile >= tiles.first; --tile) {
    const int first = tile * TILE;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const Piece piece(p, s, k);
      if (piece.t >= TILE) continue;
      float dt[8] = {}, x[8] = {}, g[8] = {};
      if (piece.is_there && first + piece.t < p.length) {
        const int at = p.position(first + piece.t);
        const Eight raw8 = load8(delta + (i64)at * sd.l + piece.channel, piece.left);
        const Eight value8 = load8(u + (i64)at * su.l + piece.channel, piece.left);
        widen(load8(dy + (i64)at * sy.l + piece.channel, piece.left), g);
        float raw[8], value[8], shift[8];
        widen(raw8, raw);
        widen(value8, value);
        constants(bias, piece, shift);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          dt[i] = HAS(i, piece.left) ? softplus(raw[i] + shift[i]) : 0.f;
          x[i] = dt[i] * value[i];
        }
      }
      write8(&tile_dt[piece.t][piece.group * 8], dt);
      write8(&tile_x[piece.t][piece.group * 8], x);
      write8(&tile_dy[piece.t][piece.group * 8], g);
    }
    load_projections(B, C, sB, sC, p, first, tile_B, tile_C);
    float start[4] = {0.f, 0.f, 0.f, 0.f}, middle[4];
    if (p.e < s.width)
      kept4(&kept[((row * s.tiles + tile) * s.width + p.e) * N_STATE + p.q * 4], start);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; ++i) middle[i] = start[i];
#pragma unroll 4
    for (int t = 0; t < HALF; ++t) {
      const float dt = tile_dt[t][p.c], x = tile_x[t][p.c];
      const float4 b = read4(&tile_B[t][p.q * 4]);
      middle[0] = fmaf(exp2_fast(dt * rate[0]), middle[0], x * b.x);
      middle[1] = fmaf(exp2_fast(dt * rate[1]), middle[1], x * b.y);
      middle[2] = fmaf(exp2_fast(dt * rate[2]), middle[2], x * b.z);
      middle[3] = fmaf(exp2_fast(dt * rate[3]), middle[3], x * b.w);
    }
#pragma unroll 1
    for (int half = 1; half >= 0; --half) {
      const int base = half * HALF;
      float before[4], h[HALF][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) before[i] = half ? middle[i] : start[i];
#pragma unroll
      for (int t = 0; t < HALF; ++t) {
        const float dt = tile_dt[base + t][p.c], x = tile_x[base + t][p.c];
        const float4 b4 = read4(&tile_B[base + t][p.q * 4]);
        const float b[4] = {b4.x, b4.y, b4.z, b4.w};
#pragma unroll
        for (int i = 0; i < 4; ++i)
          h[t][i] = fmaf(exp2_again(dt * rate[i]), t ? h[t - (t > 0)][i] : before[i], x * b[i]);
      }
#pragma unroll
      for (int t0 = HALF - 4; t0 >= 0; t0 -= 4) {
        float x_gradient[4], dt_gradient[4];
#pragma unroll
        for (int j = 3; j >= 0; --j) {
          const int t = t0 + j;
          const float dt = tile_dt[base + t][p.c], x = tile_x[base + t][p.c];
          const float g_y = tile_dy[base + t][p.c];
          const float4 b4 = read4(&tile_B[base + t][p.q * 4]);
          const float4 c4 = read4(&tile_C[base + t][p.q * 4]);
          const float b[4] = {b4.x, b4.y, b4.z, b4.w}, c[4] = {c4.x, c4.y, c4.z, c4.w};
          float sums[8], to_x = 0.f, to_dt = 0.f;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float g = fmaf(c[i], g_y, carried[i]);
            to_x = fmaf(b[i], g, to_x);
            sums[i] = g * x;
            sums[4 + i] = h[t][i] * g_y;
            carried[i] = exp2_fast(dt * rate[i]) * g;
            const float exponent = carried[i] * (t ? h[t - (t > 0)][i] : before[i]);
            to_dt = fmaf(rate[i], exponent, to_dt);
            rate_gradient[i] = fmaf(dt, exponent, rate_gradient[i]);
          }
          x_gradient[j] = to_x;
          dt_gradient[j] = to_dt;
          // Eight values: of 4 states' B, then of their C.
#if SUMS_BY_PRODUCTS
          const float of_B = over_channels(sums, ones), of_C = over_channels(sums + 4, ones);
          part[p.warp][t][p.lane / 16 * N_STATE + p.lane % 4 * 4 + p.lane / 4 % 4] =
              p.lane < 16 ? of_B : of_C;
#else
          const int index = reduce<8, WARP_CHANNELS / 2, 1>(sums, p.lane);
#pragma unroll
          for (int k = 0; k < LEFT_OF(8, WARP_CHANNELS); ++k) {
            const int value = index + k;
            part[p.warp][t][(value / 4) * N_STATE + p.q * 4 + value % 4] = sums[k];
          }
#endif
        }
        const int index = reduce<4, 16, WARP_CHANNELS>(x_gradient, p.lane);
        reduce<4, 16, WARP_CHANNELS>(dt_gradient, p.lane);
        __syncwarp();
#pragma unroll
        for (int j = 0; j < LEFT_OF(4, SPLIT); ++j) {
          tile_x[base + t0 + index + j][p.c] = x_gradient[j];
          tile_dt[base + t0 + index + j][p.c] = dt_gradient[j];
        }
      }
      __syncthreads();
      for (int i = p.tid; i < HALF * SUMS / 4; i += THREADS) {
        const int t = i / (SUMS / 4), value = i % (SUMS / 4) * 4, step = first + base + t;
        float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
          const float4 v = read4(&part[w][t][value]);
          sum.x += v.x; sum.y += v.y; sum.z += v.z; sum.w += v.w;
        }
        if (step < s.length)
          *(float4*)&dBC[((row * s.length + p.position(step)) * s.blocks + p.block) * SUMS +
                         value] = sum;
      }
      __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
      const Piece piece(p, s, k);
      float of_D_bias[16] = {};
      if (piece.is_there && first + piece.t < s.length) {
        const int at = p.position(first + piece.t);
        float to_u[8] = {}, to_delta[8] = {};
        if (first + piece.t < p.length) {
          float to_x[8], to_dt[8], g_y[8], value[8], raw[8], skip[8], shift[8];
          widen(load8(u + (i64)at * su.l + piece.channel, piece.left), value);
          widen(load8(delta + (i64)at * sd.l + piece.channel, piece.left), raw);
          read8(&tile_x[piece.t][piece.group * 8], to_x);
          read8(&tile_dt[piece.t][piece.group * 8], to_dt);
          read8(&tile_dy[piece.t][piece.group * 8], g_y);
          constants(D, piece, skip);
          constants(bias, piece, shift);
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const float biased = raw[i] + shift[i];
            to_u[i] = fmaf(to_x[i], softplus(biased), skip[i] * g_y[i]);
            to_delta[i] = fmaf(to_x[i], value[i], LN2 * to_dt[i]) * sigmoid(biased);
            of_D_bias[i] = value[i] * g_y[i];
            of_D_bias[8 + i] = to_delta[i];
          }
        }
        store8(du + (i64)at * sdu.l + piece.channel, to_u, piece.left);
        store8(ddelta + (i64)at * sdd.l + piece.channel, to_delta, piece.left);
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
