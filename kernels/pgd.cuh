// The arithmetic of PGD and of the search for the boundary, for one number and for an example of a block: used by the ops
// of an attack (attack.cu) and by those that include a network's first layer (first_layer.cu).
#pragma once

#include "prelude.cuh"
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

// --- a step in linf ---

// The point at a + step sign(g), back in ball and box; the sign of 0 is 0.
__device__ __forceinline__ float linf_move(float a, float x, float g, float eps, float step) {
    const float sign = static_cast<float>(g > 0.0f) - static_cast<float>(g < 0.0f);
    return into_ball_and_box(a + step * sign, x, eps);
}

// --- a step in l2: a block an example ---

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

// First point of PGD in an l2 ball: noise in [0, 1), projected into the ball around x, then into the box; for the
// `width` elements from `start` on, a row. eps is read between the two passes: a register that held it before would be
// spilled. Every thread of the block calls it.
template <typename V>
__device__ __forceinline__ void start_in_l2_ball(V* __restrict__ adv, const V* __restrict__ x, const float& eps,
                                                 const V* __restrict__ noise, long long start, int width) {
    double squares = 0.0;
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
        squares += sum_each(square_of_difference, noise[start + at], x[start + at]);
    }
    const IntoBall into_ball(block_sum(squares), eps);
    const auto inside = [=](float u, float x) { return into_box(into_ball(u, x)); };
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
        adv[start + at] = each(inside, noise[start + at], x[start + at]);
    }
}

// --- the search for the boundary ---

// Halves the bracket [low, high] by the sign of the loss at t, and moves t to its middle.
__device__ __forceinline__ void halve_bracket(float& t, float& low, float& high, float loss, float max_eps) {
    float from = low, to = high;
    if (loss < 0.0f) {
        from = larger(t, from);
        to = smaller(to, max_eps);
    } else {
        to = smaller(t, to);
    }
    low = from;
    high = to;
    t = (from + to) / 2.0f;
}

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

// Norm of adv - x, linf or l2, of an example of `width` numbers. Every thread of the block calls it.
__device__ __forceinline__ float perturbation_norm(const float* adv, const float* x, bool l2, int width) {
    double squares = 0.0;
    float largest = 0.0f;
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
        squares += square_of_difference(adv[at], x[at]);
        largest = larger(fabsf(adv[at] - x[at]), largest);
    }
    return l2 ? static_cast<float>(sqrt(block_sum(squares))) : block_max(largest);
}

// The points along a direction that images are; `adv` is null if the images are given.
struct PointAlong {
    const float* adv;
    const float* ball;
    const float* t;
    bool unit, l2, box;

    // The direction of example `row`, an image x of `width` numbers. Every thread of the block calls it.
    __device__ __forceinline__ AlongDirection of_row(const float* x, int row, int width) const {
        const float* own = adv + static_cast<size_t>(row) * width;
        return {t[row], unit ? perturbation_norm(own, x, l2, width) : ball[row], box};
    }
};
