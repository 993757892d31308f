// PGD and the search for the boundary. Each example has its own eps.
//
// Read this file first: `pgd_step_linf` is the plainest kernel of the project, and its heart. One launch does the work
// of six operations of a tensor library: the step along the gradient, the projection into the ball and the clamp to the
// box, for a batch whose examples each have a radius and a step size of their own.
//
// Three rules of all kernels appear here.
// - `rows` points to the number of active rows, which is on the GPU. A block beyond them leaves at once.
// - Four numbers are read and written at once if the addresses allow it (kernels whose name ends in _x4 or
//   _registersN).
//   The formula is written once, for one number, and `each` applies it to four.
// - The compiler does not contract a product and a sum into a fused multiply-add (-fmad=false): the results have the
//   bits of the formula, as on the CPU. The exact ball below depends on this.
#include "prelude.cuh"
#include "random.cuh"
#include "standardize.cuh"
#include "vector.cuh"

// --- numbers that never leave the ball ---

// The floating-point number next to v, towards 0 or away from it; v is finite and not 0. Numbers of one sign are
// ordered as their bits.
__device__ __forceinline__ float neighbour(float v, bool towards_zero) {
    return __int_as_float(__float_as_int(v) + (towards_zero ? -1 : 1));
}

// x + e, rounded towards x. Knuth's two-sum gives the exact error of the addition. If the sum was rounded away from x,
// the result is its neighbour. (The sum is then not 0, because an addition whose result is 0 has no error.) There are
// no branches, because the lanes of a warp would diverge.
__device__ __forceinline__ float add_towards(float x, float e) {
    const float sum = x + e;
    const float part = sum - x;
    const float error = (x - (sum - part)) + (e - part);
    const bool away = e > 0.0f ? error < 0.0f : error > 0.0f;
    return away ? neighbour(sum, (sum > 0.0f) == (e > 0.0f)) : sum;
}

// NaN passes through.
__device__ __forceinline__ float clamp(float v, float low, float high) {
    return v < low ? low : v > high ? high : v;
}

__device__ __forceinline__ float into_box(float v) { return clamp(v, 0.0f, 1.0f); }

// The nearest number to v that is inside the linf ball around x and inside the box [0, 1].
__device__ __forceinline__ float into_ball_and_box(float v, float x, float eps) {
    return clamp(v, larger(add_towards(x, -eps), 0.0f), smaller(add_towards(x, eps), 1.0f));
}

// --- linf: one pass over memory ---

// Position of a thread in a grid whose blocks each take THREADS elements of one row, so that eps and the step size are
// the same for the whole block. Rows have `width` elements: numbers, or vectors of four.
struct RowPosition {
    int row;
    int at;

    __device__ __forceinline__ explicit RowPosition(int width) {
        const unsigned parts = ceil_div(width, THREADS);
        row = static_cast<int>(blockIdx.x / parts);
        at = static_cast<int>(blockIdx.x % parts) * THREADS + static_cast<int>(threadIdx.x);
    }

    __device__ __forceinline__ bool inside(const unsigned* rows, int capacity, int width) const {
        return row < active_rows(rows, capacity) && at < width;
    }

    __device__ __forceinline__ long long offset(int width) const { return static_cast<long long>(row) * width + at; }
};

// The point at a + step sign(g), back in ball and box; the sign of 0 is 0.
__device__ __forceinline__ float linf_move(float a, float x, float g, float eps, float step) {
    const float sign = static_cast<float>(g > 0.0f) - static_cast<float>(g < 0.0f);
    return into_ball_and_box(a + step * sign, x, eps);
}

// adv = the point at adv + step sign(dx), back in ball and box.
//
// 16 bytes a number: adv, x and dx are read, adv is written; some 26 FLOPs. At batch 50 of 28 x 28: 0.63 MB, 0.2 us at
// 3.0 TB/s; for 200 MB 67 us. No number depends on another one, so there is no shared memory and no barrier. Three
// loads of 16 bytes a thread are in flight at once, which keeps the memory busy.
template <typename V>
__device__ __forceinline__ void pgd_step_linf_of(V* __restrict__ adv, const V* __restrict__ x, const V* __restrict__ dx,
                                                 const float* __restrict__ eps, const float* __restrict__ step,
                                                 const unsigned* rows, int capacity, int width) {
    const RowPosition position(width);
    if (!position.inside(rows, capacity, width)) return;
    const long long i = position.offset(width);
    const float radius = eps[position.row], stride = step[position.row];
    const auto move = [=](float a, float x, float g) { return linf_move(a, x, g, radius, stride); };
    adv[i] = each(move, adv[i], x[i], dx[i]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_linf(float* adv, const float* x, const float* dx, const float* eps, const float* step,
                  const unsigned* rows, int capacity, int width) {
    pgd_step_linf_of(adv, x, dx, eps, step, rows, capacity, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_linf_x4(float4* adv, const float4* x, const float4* dx, const float* eps, const float* step,
                     const unsigned* rows, int capacity, int width) {
    pgd_step_linf_of(adv, x, dx, eps, step, rows, capacity, width);
}

// First point of PGD: x + eps noise, noise in [-1, 1), in ball and box. 12 bytes a number, some 25 FLOPs.
template <typename V>
__device__ __forceinline__ void pgd_start_linf_of(V* __restrict__ adv, const V* __restrict__ x,
                                                  const float* __restrict__ eps, const V* __restrict__ noise,
                                                  const unsigned* rows, int capacity, int width) {
    const RowPosition position(width);
    if (!position.inside(rows, capacity, width)) return;
    const long long i = position.offset(width);
    const float radius = eps[position.row];
    const auto start = [=](float x, float u) { return into_ball_and_box(x + radius * u, x, radius); };
    adv[i] = each(start, x[i], noise[i]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_start_linf(float* adv, const float* x, const float* eps, const float* noise, const unsigned* rows, int capacity,
                   int width) {
    pgd_start_linf_of(adv, x, eps, noise, rows, capacity, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_start_linf_x4(float4* adv, const float4* x, const float* eps, const float4* noise, const unsigned* rows,
                      int capacity, int width) {
    pgd_start_linf_of(adv, x, eps, noise, rows, capacity, width);
}

// --- l2: a block an example, because a norm is a sum over the whole example ---

__device__ __forceinline__ double square_of_difference(float a, float b) {
    const double d = static_cast<double>(a) - static_cast<double>(b);
    return d * d;
}

// Projection of a point into the ball of radius eps around x. `squares` is the sum of squares of the point's difference
// from x, and `far` is its norm. The factor is less than eps / far by more than the roundings of a - x, of the factor
// and of their product (2^-24 each) can add, and the last addition is rounded towards x. So the result is inside the
// ball for all numbers.
struct IntoBall {
    bool outside;
    float factor;

    __device__ __forceinline__ IntoBall(double squares, float eps) {
        const double far = sqrt(squares);
        outside = far > static_cast<double>(eps);
        factor = static_cast<float>(static_cast<double>(eps) / far * (1.0 - 1.0 / 4194304.0));
    }

    __device__ __forceinline__ float operator()(float a, float x) const {
        return outside ? add_towards(x, (a - x) * factor) : a;
    }
};

// An example of at most N THREADS vectors of four, held in registers: adv, x and dx are read once, though they are used
// twice. Zeros beyond the end of the row change no sum and no norm.
template <int N>
struct RegisterRow {
    float4 adv[N];
    float4 x[N];
    float4 dx[N];

    __device__ __forceinline__ RegisterRow(const float4* from, const float4* image, const float4* gradient, int width) {
        const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const int at = k * THREADS + static_cast<int>(threadIdx.x);
            adv[k] = at < width ? from[at] : zero;
            x[k] = at < width ? image[at] : zero;
            dx[k] = at < width ? gradient[at] : zero;
        }
    }

    template <typename F>
    __device__ __forceinline__ void for_each(F f) {
#pragma unroll
        for (int k = 0; k < N; ++k) f(adv[k], x[k], dx[k]);
    }

    __device__ __forceinline__ void store(float4* to, int width) const {
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const int at = k * THREADS + static_cast<int>(threadIdx.x);
            if (at < width) to[at] = adv[k];
        }
    }
};

// An example of any length: each pass reads it again, and writes its point to `adv`.
struct MemoryRow {
    float* adv;
    const float* x;
    const float* dx;
    int width;

    template <typename F>
    __device__ __forceinline__ void for_each(F f) {
        for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) f(adv[at], x[at], dx[at]);
    }
};

// adv = the point at adv + step dx / |dx|, projected into ball and box in the given order. Every thread of the block
// calls it. Sums of squares are in double precision: each thread's own first, then the block's.
template <typename Row>
__device__ __forceinline__ void pgd_step_l2_of(Row& row, float eps, float step, float floor, bool box_first) {
    double squares = 0.0;
    row.for_each([&](auto&, auto&, auto& dx) {
        squares += sum_each([](float g) { return static_cast<double>(g) * static_cast<double>(g); }, dx);
    });
    const float length = larger(static_cast<float>(sqrt(block_sum(squares))), floor);
    const float stride = step / length;
    const auto move = [=](float a, float g) {
        const float moved = a + stride * g;
        return box_first ? into_box(moved) : moved;
    };
    squares = 0.0;
    row.for_each([&](auto& adv, auto& x, auto& dx) {
        adv = each(move, adv, dx);
        squares += sum_each(square_of_difference, adv, x);
    });
    const IntoBall into_ball(block_sum(squares), eps);
    // The box is applied after the ball, too, because rounding may leave it by the last digit.
    const auto inside = [=](float a, float x) { return into_box(into_ball(a, x)); };
    row.for_each([&](auto& adv, auto& x, auto&) { adv = each(inside, adv, x); });
}

// 16 bytes a number, as in linf, and some 20 FLOPs, five of them in double precision: 0.2 us at batch 50 of 28 x 28.
// Two sums over a block come on top.
template <int N>
__device__ __forceinline__ void pgd_step_l2_registers(float4* adv, const float4* x, const float4* dx, const float* eps,
                                                      const float* step, float floor, int box_first,
                                                      const unsigned* rows, int capacity, int width) {
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const long long start = static_cast<long long>(row) * width;
    RegisterRow<N> example(adv + start, x + start, dx + start, width);
    pgd_step_l2_of(example, eps[row], step[row], floor, box_first != 0);
    example.store(adv + start, width);
}

// Rows of at most 256 vectors of four: 28 x 28 has 196.
extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_l2_registers1(float4* adv, const float4* x, const float4* dx, const float* eps, const float* step,
                           float floor, int box_first, const unsigned* rows, int capacity, int width) {
    pgd_step_l2_registers<1>(adv, x, dx, eps, step, floor, box_first, rows, capacity, width);
}

// Rows of at most 768 vectors of four: 32 x 32 x 3 has 768.
extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_l2_registers3(float4* adv, const float4* x, const float4* dx, const float* eps, const float* step,
                           float floor, int box_first, const unsigned* rows, int capacity, int width) {
    pgd_step_l2_registers<3>(adv, x, dx, eps, step, floor, box_first, rows, capacity, width);
}

// Rows of any length. adv, x and dx are read twice, adv is written twice: 28 bytes a number, most of them from a cache.
extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_l2(float* adv, const float* x, const float* dx, const float* eps, const float* step, float floor,
                int box_first, const unsigned* rows, int capacity, int width) {
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const long long start = static_cast<long long>(row) * width;
    MemoryRow example{adv + start, x + start, dx + start, width};
    pgd_step_l2_of(example, eps[row], step[row], floor, box_first != 0);
}

// --- a step along a gradient that is not finished ---

// A row in memory whose gradient is finished whenever it is read.
struct UnfinishedRow {
    float* adv;
    const float* x;
    const float* dx;
    const float* y;  // null without standardization
    int width;
    float factor;
    StandardizedGradient standardized;

    template <typename F>
    __device__ __forceinline__ void for_each(F f) {
        for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
            float gradient = dx[at] * factor;
            if (y != nullptr) gradient = standardized(gradient, y[at]);
            f(adv[at], x[at], gradient);
        }
    }
};

// Factor that brings a row's gradient back from the norm of half gradients; 1 without a norm.
__device__ __forceinline__ float norm_factor(const float* norm, int row) {
    if (norm == nullptr) return 1.0f;
    return (norm[row] < LEAST_GRADIENT_NORM ? LEAST_GRADIENT_NORM : norm[row]) / GRADIENT_NORM;
}

template <typename Row>
__device__ __forceinline__ void pgd_step_of(Row& row, float eps, float step, float floor, bool l2, bool box_first) {
    if (l2) {
        pgd_step_l2_of(row, eps, step, floor, box_first);
        return;
    }
    const auto move = [=](float a, float x, float g) { return linf_move(a, x, g, eps, step); };
    row.for_each([&](auto& adv, auto& x, auto& dx) { adv = each(move, adv, x, dx); });
}

// Each operand is read once: adv, x, dx and y, 20 bytes a number with the result: 7.9 MB at batch 128 of 32 x 32 x 3,
// 2.6 us. As launches of their own standardize_backward and pgd_step_linf move 28 bytes a number, and the return from
// the norm 8 more. 26 FLOPs a number in linf, 20 in l2, 9 of the standardization and 1 of the norm.
template <int N>
__device__ __forceinline__ void pgd_step_fused_registers(
    float4* adv, const float4* x, const float4* dx, const float* eps, const float* step, const float* norm,
    const float4* y, const float* deviation, float floor, bool l2, bool box_first, const unsigned* rows, int capacity,
    int width) {
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const long long start = static_cast<long long>(row) * width;
    RegisterRow<N> example(adv + start, x + start, dx + start, width);
    const float factor = norm_factor(norm, row);
    const auto restored = [=](float dx) { return dx * factor; };
    example.for_each([&](auto&, auto&, auto& dx) { dx = each(restored, dx); });
    if (y != nullptr) {
        float4 standard[N];
        double sum = 0.0, products = 0.0;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const int at = k * THREADS + static_cast<int>(threadIdx.x);
            standard[k] = at < width ? y[start + at] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            sum += sum_each([](float dy) { return static_cast<double>(dy); }, example.dx[k]);
            products += sum_each(product_in_double, example.dx[k], standard[k]);
        }
        const StandardizedGradient gradient(sum, products, deviation[row], 4 * width);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            // Beyond the end of the row the gradient stays 0.
            if (k * THREADS + static_cast<int>(threadIdx.x) < width) {
                example.dx[k] = each(gradient, example.dx[k], standard[k]);
            }
        }
    }
    pgd_step_of(example, eps[row], step[row], floor, l2, box_first);
    example.store(adv + start, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_fused_registers1(float4* adv, const float4* x, const float4* dx, const float* eps, const float* step,
                              const float* norm, const float4* y, const float* deviation, float floor, int l2,
                              int box_first, const unsigned* rows, int capacity, int width) {
    pgd_step_fused_registers<1>(adv, x, dx, eps, step, norm, y, deviation, floor, l2 != 0, box_first != 0, rows,
                                capacity, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_fused_registers3(float4* adv, const float4* x, const float4* dx, const float* eps, const float* step,
                              const float* norm, const float4* y, const float* deviation, float floor, int l2,
                              int box_first, const unsigned* rows, int capacity, int width) {
    pgd_step_fused_registers<3>(adv, x, dx, eps, step, norm, y, deviation, floor, l2 != 0, box_first != 0, rows,
                                capacity, width);
}

// Rows of any length: dx and y are read again for each pass, most of it from a cache. `dx` is that of the row, in
// global or in shared memory.
__device__ __forceinline__ void pgd_step_fused_of(
    float* adv, const float* x, const float* dx, const float* eps, const float* step, const float* norm, const float* y,
    const float* deviation, float floor, bool l2, bool box_first, int row, int width) {
    const long long start = static_cast<long long>(row) * width;
    UnfinishedRow example{adv + start, x + start, dx, nullptr, width, norm_factor(norm, row), {}};
    if (y != nullptr) {
        double sum = 0.0, products = 0.0;
        for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
            const float dy = dx[at] * example.factor;
            sum += static_cast<double>(dy);
            products += product_in_double(dy, y[start + at]);
        }
        example.standardized = StandardizedGradient(sum, products, deviation[row], width);
        example.y = y + start;
    }
    pgd_step_of(example, eps[row], step[row], floor, l2, box_first);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_fused(float* adv, const float* x, const float* dx, const float* eps, const float* step, const float* norm,
                   const float* y, const float* deviation, float floor, int l2, int box_first, const unsigned* rows,
                   int capacity, int width) {
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    dx += static_cast<size_t>(row) * width;
    pgd_step_fused_of(adv, x, dx, eps, step, norm, y, deviation, floor, l2 != 0, box_first != 0, row, width);
}

// `pgd_step_fused` with the first layer: dx is the input gradient of a convolution of stride 1, which the block computes
// for its image into shared memory. A thread takes a pixel, and sums all its channels. The filters are in shared memory, too, as
// [tap][filter][channel] with four channels, so that a term's weights are one load that all lanes of a warp share.
//
// WideResNet-28-4 at a batch of 128, 16 filters of 3 x 3 x 3: 14.7 MB, 4.9 us, as halves 10.5 MB, 3.5 us; 127 MFLOP.
// Each number of dy is read 9 times, 8 of them from the L1 cache. An H200 takes 96 us for the input gradient as a
// matrix product alone, which uses 3 of its tile's 32 columns. A batch has few more blocks than a GPU has
// multiprocessors, so a thread may have the registers of two blocks a multiprocessor.
template <int VECTOR, class Dy>
__device__ __forceinline__ void pgd_step_fused_directly(
    float* adv, const float* x, const Dy* dy, const float* eps, const float* step, const float* w, const float* norm,
    const float* y, const float* deviation, float floor, bool l2, bool box_first, const unsigned* rows, int capacity,
    const ConvShape& s) {
    DYN_SHARED(float, filters);
    const int row = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const int weights = s.kh * s.kw * s.k * MOST_STEP_CHANNELS, pixels = s.h * s.w;
    float* dx = filters + weights;
    for (int i = thread; i < weights; i += THREADS) {
        const int channel = i % MOST_STEP_CHANNELS, of_taps = i / MOST_STEP_CHANNELS;
        const int filter = of_taps % s.k, tap = of_taps / s.k;
        filters[i] = channel < s.c ? w[(filter * s.kh * s.kw + tap) * s.c + channel] : 0.0f;
    }
    __syncthreads();
    dy += static_cast<size_t>(row) * s.out_h * s.out_w * s.k;
    for (int pixel = thread; pixel < pixels; pixel += THREADS) {
        const int pixel_y = pixel / s.w, pixel_x = pixel - pixel_y * s.w;
        float sums[MOST_STEP_CHANNELS] = {};
        for (int tap = 0; tap < s.kh * s.kw; ++tap) {
            const int from_y = pixel_y + s.padding - tap / s.kw, from_x = pixel_x + s.padding - tap % s.kw;
            if (static_cast<unsigned>(from_y) >= static_cast<unsigned>(s.out_h) ||
                static_cast<unsigned>(from_x) >= static_cast<unsigned>(s.out_w)) {
                continue;
            }
            const Dy* gradients = dy + (from_y * s.out_w + from_x) * s.k;
            const float* taps = filters + tap * s.k * MOST_STEP_CHANNELS;
#pragma unroll 4
            for (int filter = 0; filter < s.k; filter += VECTOR) {
                float gradient[VECTOR];
                load_vector(gradient, gradients + filter);
#pragma unroll
                for (int v = 0; v < VECTOR; ++v) {
                    float weight[MOST_STEP_CHANNELS];
                    load_vector(weight, taps + (filter + v) * MOST_STEP_CHANNELS);
                    for (int c = 0; c < MOST_STEP_CHANNELS; ++c) sums[c] = fmaf(gradient[v], weight[c], sums[c]);
                }
            }
        }
#pragma unroll
        for (int c = 0; c < MOST_STEP_CHANNELS; ++c) {
            if (c < s.c) dx[pixel * s.c + c] = sums[c];
        }
    }
    __syncthreads();
    pgd_step_fused_of(adv, x, dx, eps, step, norm, y, deviation, floor, l2, box_first, row, pixels * s.c);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    pgd_step_fused_direct(float* adv, const float* x, const float* dy, const float* eps, const float* step,
                          const float* w, const float* norm, const float* y, const float* deviation, float floor,
                          int l2, int box_first, const unsigned* rows, int capacity, ConvShape s) {
    pgd_step_fused_directly<1>(adv, x, dy, eps, step, w, norm, y, deviation, floor, l2 != 0, box_first != 0, rows,
                               capacity, s);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    pgd_step_fused_direct_x4(float* adv, const float* x, const float* dy, const float* eps, const float* step,
                             const float* w, const float* norm, const float* y, const float* deviation, float floor,
                             int l2, int box_first, const unsigned* rows, int capacity, ConvShape s) {
    pgd_step_fused_directly<4>(adv, x, dy, eps, step, w, norm, y, deviation, floor, l2 != 0, box_first != 0, rows,
                               capacity, s);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    pgd_step_fused_direct_from_half(float* adv, const float* x, const Half* dy, const float* eps, const float* step,
                                    const float* w, const float* norm, const float* y, const float* deviation,
                                    float floor, int l2, int box_first, const unsigned* rows, int capacity,
                                    ConvShape s) {
    pgd_step_fused_directly<1>(adv, x, dy, eps, step, w, norm, y, deviation, floor, l2 != 0, box_first != 0, rows,
                               capacity, s);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    pgd_step_fused_direct_from_half_x4(float* adv, const float* x, const Half* dy, const float* eps, const float* step,
                                       const float* w, const float* norm, const float* y, const float* deviation,
                                       float floor, int l2, int box_first, const unsigned* rows, int capacity,
                                       ConvShape s) {
    pgd_step_fused_directly<4>(adv, x, dy, eps, step, w, norm, y, deviation, floor, l2 != 0, box_first != 0, rows,
                               capacity, s);
}

// First point of PGD: an image of noise in [0, 1), projected into the ball around x, then into the box. It runs once an
// attack, so it reads its operands twice instead of holding them: 20 bytes a number, 8 of them from a cache.
template <typename V>
__device__ __forceinline__ void pgd_start_l2_of(V* __restrict__ adv, const V* __restrict__ x,
                                                const float* __restrict__ eps, const V* __restrict__ noise,
                                                const unsigned* rows, int capacity, int width) {
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const long long start = static_cast<long long>(row) * width;
    double squares = 0.0;
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
        squares += sum_each(square_of_difference, noise[start + at], x[start + at]);
    }
    const IntoBall into_ball(block_sum(squares), eps[row]);
    const auto inside = [=](float u, float x) { return into_box(into_ball(u, x)); };
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
        adv[start + at] = each(inside, noise[start + at], x[start + at]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_start_l2(float* adv, const float* x, const float* eps, const float* noise, const unsigned* rows, int capacity,
                 int width) {
    pgd_start_l2_of(adv, x, eps, noise, rows, capacity, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_start_l2_x4(float4* adv, const float4* x, const float* eps, const float4* noise, const unsigned* rows,
                    int capacity, int width) {
    pgd_start_l2_of(adv, x, eps, noise, rows, capacity, width);
}

// --- the search for the boundary ---

// x + t (adv - x) / length
struct AlongDirection {
    float t;
    float scale;
    bool box;

    __device__ __forceinline__ AlongDirection(float t, float length, bool box)
        : t(t), scale(1.0f / (length + 1e-12f)), box(box) {}

    __device__ __forceinline__ float operator()(float x, float adv) const {
        const float point = x + t * (scale * (adv - x));
        return box ? into_box(point) : point;
    }
};

// Along the direction of the adversarial example; the length is PGD's radius. 12 bytes a number, 6 FLOPs: 0.47 MB at
// batch 50 of 28 x 28, 0.16 us.
template <typename V>
__device__ __forceinline__ void along_direction_eps_of(V* __restrict__ out, const V* __restrict__ x,
                                                       const V* __restrict__ adv, const float* __restrict__ ball,
                                                       const float* __restrict__ t, int box, const unsigned* rows,
                                                       int capacity, int width) {
    const RowPosition position(width);
    if (!position.inside(rows, capacity, width)) return;
    const long long i = position.offset(width);
    out[i] = each(AlongDirection(t[position.row], ball[position.row], box != 0), x[i], adv[i]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    along_direction_eps(float* out, const float* x, const float* adv, const float* ball, const float* t, int box,
                        const unsigned* rows, int capacity, int width) {
    along_direction_eps_of(out, x, adv, ball, t, box, rows, capacity, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    along_direction_eps_x4(float4* out, const float4* x, const float4* adv, const float* ball, const float* t, int box,
                           const unsigned* rows, int capacity, int width) {
    along_direction_eps_of(out, x, adv, ball, t, box, rows, capacity, width);
}

// Maximum of all threads' values, which are not negative, in every thread of the block.
__device__ __forceinline__ float block_max(float value) {
    SHARED(float, largest, [THREADS / WARP]);
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        value = larger(value, __shfl_xor_sync(FULL_MASK, value, lanes));
    }
    if (threadIdx.x % WARP == 0) largest[threadIdx.x / WARP] = value;
    __syncthreads();
    for (int w = 0; w < THREADS / WARP; ++w) value = larger(value, largest[w]);
    return value;
}

// Along the direction of the adversarial example; the length is the norm of adv - x, linf or l2. A block an example
// reads it twice, the second time from a cache. 12 bytes a number, 9 FLOPs.
extern "C" __global__ void __launch_bounds__(THREADS)
    along_direction_unit(float* __restrict__ out, const float* __restrict__ x, const float* __restrict__ adv,
                         const float* __restrict__ t, int l2, int box, const unsigned* rows, int capacity, int width) {
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const long long start = static_cast<long long>(row) * width;
    double squares = 0.0;
    float largest = 0.0f;
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
        squares += square_of_difference(adv[start + at], x[start + at]);
        largest = larger(fabsf(adv[start + at] - x[start + at]), largest);
    }
    const float length = l2 != 0 ? static_cast<float>(sqrt(block_sum(squares))) : block_max(largest);
    const AlongDirection along(t[row], length, box != 0);
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
        out[start + at] = along(x[start + at], adv[start + at]);
    }
}

// Halves the bracket [low, high] of each row by the sign of the loss at t, and moves t to its middle. 28 bytes a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    bisect(float* __restrict__ t, float* __restrict__ low, float* __restrict__ high, const float* __restrict__ loss,
           float max_eps, const unsigned* rows, int capacity) {
    const long long i = global_thread();
    if (i >= active_rows(rows, capacity)) return;
    float from = low[i], to = high[i];
    if (loss[i] < 0.0f) {
        from = larger(t[i], from);
        to = smaller(to, max_eps);
    } else {
        to = smaller(t[i], to);
    }
    low[i] = from;
    high[i] = to;
    t[i] = (from + to) / 2.0f;
}

// --- noise ---

// Numbers 4 block .. 4 block + 3 of an example, the bits of `philox` in src/rng.rs.
__device__ __forceinline__ float4 noise_of(unsigned block, unsigned example, unsigned step, unsigned purpose,
                                           unsigned seed_low, unsigned seed_high, bool is_signed) {
    const uint4 words =
        philox4x32_10(make_uint4(block, example, step, purpose), make_uint2(seed_low, seed_high));
    const auto number = [=](unsigned word) { return is_signed ? signed_unit(word) : unit(word); };
    return make_float4(number(words.x), number(words.y), number(words.z), number(words.w));
}

// A thread writes four numbers. 4 bytes a number, some 25 integer operations: 0.16 MB at batch 50 of 28 x 28, 0.05 us.
extern "C" __global__ void __launch_bounds__(THREADS)
    uniform(float* __restrict__ out, const unsigned* __restrict__ step, const unsigned* __restrict__ index,
            unsigned seed_low, unsigned seed_high, unsigned purpose, int is_signed, const unsigned* rows, int capacity,
            int row) {
    const long long i = global_thread();
    const int blocks = ceil_div(row, 4);
    if (i >= static_cast<long long>(active_rows(rows, capacity)) * blocks) return;
    const long long example = i / blocks;
    const int block = static_cast<int>(i % blocks);
    const float4 numbers = noise_of(block, index[example], *step, purpose, seed_low, seed_high, is_signed != 0);
    float* to = out + example * row + 4 * static_cast<long long>(block);
    const int left = row - 4 * block;
    to[0] = numbers.x;
    if (left > 1) to[1] = numbers.y;
    if (left > 2) to[2] = numbers.z;
    if (left > 3) to[3] = numbers.w;
}

// A row has `width` vectors of four.
extern "C" __global__ void __launch_bounds__(THREADS)
    uniform_x4(float4* __restrict__ out, const unsigned* __restrict__ step, const unsigned* __restrict__ index,
               unsigned seed_low, unsigned seed_high, unsigned purpose, int is_signed, const unsigned* rows,
               int capacity, int width) {
    const long long i = global_thread();
    if (i >= static_cast<long long>(active_rows(rows, capacity)) * width) return;
    const unsigned block = static_cast<unsigned>(i % width);
    out[i] = noise_of(block, index[i / width], *step, purpose, seed_low, seed_high, is_signed != 0);
}
