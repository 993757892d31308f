// PGD and the search for the boundary, each example with its own eps.
//
// Read this file first: `pgd_step_linf` is the plainest kernel there is, and the heart of the project. One launch does
// what is written in tensor libraries as six: the step along the gradient, the projection into the ball, the clamp to
// the box, for a batch of which every example has a radius and a step of its own.
//
// Three habits of all kernels show here.
// - `rows` is a number on the GPU: how many rows of the batch take part. A block beyond it leaves at once.
// - Four numbers are read and written at once where addresses allow it (the kernels whose name ends in _x4 or _registersN);
//   the formula is written once, for one number, and `each` applies it.
// - The compiler contracts no product and sum into one rounding (-fmad=false): bits are those that the formula says,
//   and the CPU's. The ball below rests on that.
#include "prelude.cuh"
#include "random.cuh"
#include "vector.cuh"

// --- numbers that never leave the ball ---

// The number next to v, one step towards 0 or away from it; v is finite and not 0. But for the sign, numbers are ordered
// as their bits are.
__device__ __forceinline__ float neighbour(float v, bool towards_zero) {
    return __int_as_float(__float_as_int(v) + (towards_zero ? -1 : 1));
}

// x + e, rounded towards x. Knuth's two-sum gives the error of the addition exactly; if the sum was rounded away from
// x, its neighbour is the answer. (Then it is not 0: an addition that gives 0 has no error.) Written without branches,
// for the lanes of a warp would take different ones.
__device__ __forceinline__ float add_towards(float x, float e) {
    const float sum = x + e;
    const float part = sum - x;
    const float error = (x - (sum - part)) + (e - part);
    const bool away = e > 0.0f ? error < 0.0f : error > 0.0f;
    return away ? neighbour(sum, (sum > 0.0f) == (e > 0.0f)) : sum;
}

// What is no number stays what it is.
__device__ __forceinline__ float clamp(float v, float low, float high) {
    return v < low ? low : v > high ? high : v;
}

__device__ __forceinline__ float into_box(float v) { return clamp(v, 0.0f, 1.0f); }

// The nearest number to v that is inside the linf ball around x and inside the box [0, 1].
__device__ __forceinline__ float into_ball_and_box(float v, float x, float eps) {
    return clamp(v, fmaxf(add_towards(x, -eps), 0.0f), fminf(add_towards(x, eps), 1.0f));
}

// --- linf: one pass over memory ---

// Where a thread works if every block works in one row, THREADS numbers (or fours) of it: then eps and step are the
// same for the whole block. Rows have `width` numbers, or fours.
struct Spot {
    int row;
    int at;

    __device__ __forceinline__ explicit Spot(int width) {
        const unsigned parts = ceil_div(width, THREADS);
        row = static_cast<int>(blockIdx.x / parts);
        at = static_cast<int>(blockIdx.x % parts) * THREADS + static_cast<int>(threadIdx.x);
    }

    __device__ __forceinline__ bool inside(const unsigned* rows, int capacity, int width) const {
        return row < active_rows(rows, capacity) && at < width;
    }

    __device__ __forceinline__ long long offset(int width) const { return static_cast<long long>(row) * width + at; }
};

// adv = the point at adv + step sign(dx), back in ball and box.
//
// 16 bytes a number: adv, x and dx are read, adv is written; some 26 FLOPs. At batch 50 of 28 x 28: 0.63 MB, 0.2 us at
// 3.0 TB/s; for 200 MB 67 us. Nothing depends on a neighbour, so nothing is shared and nobody waits: three reads of 16
// bytes a thread are on their way at once, which is what keeps the memory busy.
template <typename V>
__device__ __forceinline__ void pgd_step_linf_of(V* __restrict__ adv, const V* __restrict__ x, const V* __restrict__ dx,
                                                 const float* __restrict__ eps, const float* __restrict__ step,
                                                 const unsigned* rows, int capacity, int width) {
    const Spot spot(width);
    if (!spot.inside(rows, capacity, width)) return;
    const long long i = spot.offset(width);
    const float radius = eps[spot.row], stride = step[spot.row];
    const auto move = [=](float a, float x, float g) {
        const float sign = static_cast<float>(g > 0.0f) - static_cast<float>(g < 0.0f);  // 0 for 0
        return into_ball_and_box(a + stride * sign, x, radius);
    };
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

// PGD's first point: x + eps noise, noise in [-1, 1), in ball and box. 12 bytes a number, some 25 FLOPs.
template <typename V>
__device__ __forceinline__ void pgd_start_linf_of(V* __restrict__ adv, const V* __restrict__ x,
                                                  const float* __restrict__ eps, const V* __restrict__ noise,
                                                  const unsigned* rows, int capacity, int width) {
    const Spot spot(width);
    if (!spot.inside(rows, capacity, width)) return;
    const long long i = spot.offset(width);
    const float radius = eps[spot.row];
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

// --- l2: a block an example, because its length is a sum over all of it ---

__device__ __forceinline__ double square_of_difference(float a, float b) {
    const double d = static_cast<double>(a) - static_cast<double>(b);
    return d * d;
}

// What brings a point `far` from x back into the ball of radius eps, `far` from the sum of its squares. The factor is
// less than eps / far by more than the roundings of a - x, of the factor and of their product (2^-24 each) may add, and
// the last addition is rounded towards x: the result is inside the ball, whatever the numbers are.
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

// An example of at most N THREADS fours, kept in registers: adv, x and dx are read once, though they are used twice.
// Beyond the row's end stand zeros, which no sum and no length notices.
template <int N>
struct Kept {
    float4 adv[N];
    float4 x[N];
    float4 dx[N];

    __device__ __forceinline__ Kept(const float4* from, const float4* image, const float4* gradient, int width) {
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

// An example of any length: each pass reads it again, and leaves its point in `adv`.
struct InMemory {
    float* adv;
    const float* x;
    const float* dx;
    int width;

    template <typename F>
    __device__ __forceinline__ void for_each(F f) {
        for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) f(adv[at], x[at], dx[at]);
    }
};

// adv = the point at adv + step dx / |dx|, back in ball and box, in the order that is asked for. Every thread of the
// block calls it. Sums of squares are taken in double, each thread's own first, then the block's.
template <typename Row>
__device__ __forceinline__ void pgd_step_l2_of(Row& row, float eps, float step, float floor, bool box_first) {
    double squares = 0.0;
    row.for_each([&](auto&, auto&, auto& dx) {
        squares += sum_each([](float g) { return static_cast<double>(g) * static_cast<double>(g); }, dx);
    });
    const float length = fmaxf(static_cast<float>(sqrt(block_sum(squares))), floor);
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
    // The box is of use after the ball, too: rounding may step out of it by the last digit.
    const auto inside = [=](float a, float x) { return into_box(into_ball(a, x)); };
    row.for_each([&](auto& adv, auto& x, auto&) { adv = each(inside, adv, x); });
}

// The bytes of linf, 16 a number, and some 20 FLOPs, five of them in double: 0.2 us at batch 50 of 28 x 28. What it
// takes longer is two sums over a block.
template <int N>
__device__ __forceinline__ void pgd_step_l2_registers(float4* adv, const float4* x, const float4* dx, const float* eps,
                                                 const float* step, float floor, int box_first, const unsigned* rows,
                                                 int capacity, int width) {
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const long long start = static_cast<long long>(row) * width;
    Kept<N> example(adv + start, x + start, dx + start, width);
    pgd_step_l2_of(example, eps[row], step[row], floor, box_first != 0);
    example.store(adv + start, width);
}

// Rows of at most 256 fours: 28 x 28 has 196.
extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_l2_registers1(float4* adv, const float4* x, const float4* dx, const float* eps, const float* step, float floor,
                      int box_first, const unsigned* rows, int capacity, int width) {
    pgd_step_l2_registers<1>(adv, x, dx, eps, step, floor, box_first, rows, capacity, width);
}

// Rows of at most 768 fours: 32 x 32 x 3 has 768.
extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_l2_registers3(float4* adv, const float4* x, const float4* dx, const float* eps, const float* step, float floor,
                      int box_first, const unsigned* rows, int capacity, int width) {
    pgd_step_l2_registers<3>(adv, x, dx, eps, step, floor, box_first, rows, capacity, width);
}

// Any row. dx is read twice, adv and x twice, adv is written twice: 28 bytes a number, most of them from a cache.
extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_l2(float* adv, const float* x, const float* dx, const float* eps, const float* step, float floor,
                int box_first, const unsigned* rows, int capacity, int width) {
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const long long start = static_cast<long long>(row) * width;
    InMemory example{adv + start, x + start, dx + start, width};
    pgd_step_l2_of(example, eps[row], step[row], floor, box_first != 0);
}

// PGD's first point: an image of noise in [0, 1), brought to the ball around x, then to the box. Once an attack, so it
// reads twice what it could keep: 20 bytes a number, 8 of them from a cache.
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

// The length is the radius that PGD searched. 12 bytes a number, 6 FLOPs: 0.47 MB at batch 50 of 28 x 28, 0.16 us.
template <typename V>
__device__ __forceinline__ void along_direction_eps_of(V* __restrict__ out, const V* __restrict__ x,
                                                       const V* __restrict__ adv, const float* __restrict__ ball,
                                                       const float* __restrict__ t, int box, const unsigned* rows,
                                                       int capacity, int width) {
    const Spot spot(width);
    if (!spot.inside(rows, capacity, width)) return;
    const long long i = spot.offset(width);
    out[i] = each(AlongDirection(t[spot.row], ball[spot.row], box != 0), x[i], adv[i]);
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

// The largest of all threads' values, which are not negative, in every thread of the block.
__device__ __forceinline__ float block_max(float value) {
    SHARED(float, largest, [THREADS / WARP]);
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        value = fmaxf(value, __shfl_xor_sync(FULL_MASK, value, lanes));
    }
    if (threadIdx.x % WARP == 0) largest[threadIdx.x / WARP] = value;
    __syncthreads();
    for (int w = 0; w < THREADS / WARP; ++w) value = fmaxf(value, largest[w]);
    return value;
}

// The length is that of adv - x, in linf or l2: a block an example reads it twice, the second time from a cache.
// 12 bytes a number, 9 FLOPs.
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
        largest = fmaxf(largest, fabsf(adv[start + at] - x[start + at]));
    }
    const float length = l2 != 0 ? static_cast<float>(sqrt(block_sum(squares))) : block_max(largest);
    const AlongDirection along(t[row], length, box != 0);
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
        out[start + at] = along(x[start + at], adv[start + at]);
    }
}

// Halves the bracket [low, high] of each row by the sign of the loss at t, and puts t in its middle. 28 bytes a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    bisect(float* __restrict__ t, float* __restrict__ low, float* __restrict__ high, const float* __restrict__ loss,
           float max_eps, const unsigned* rows, int capacity) {
    const long long i = global_thread();
    if (i >= active_rows(rows, capacity)) return;
    float from = low[i], to = high[i];
    if (loss[i] < 0.0f) {
        from = fmaxf(from, t[i]);
        to = fminf(to, max_eps);
    } else {
        to = fminf(to, t[i]);
    }
    low[i] = from;
    high[i] = to;
    t[i] = (from + to) / 2.0f;
}

// --- noise ---

// Numbers 4 block .. 4 block + 3 of an example: what `philox` of src/rng.rs gives for it.
__device__ __forceinline__ float4 noise_of(unsigned block, unsigned example, unsigned step, unsigned purpose,
                                           unsigned seed_low, unsigned seed_high, bool is_signed) {
    const uint4 words =
        philox4x32_10(make_uint4(block, example, step, purpose), make_uint2(seed_low, seed_high));
    const auto number = [=](unsigned word) { return is_signed ? signed_unit(word) : unit(word); };
    return make_float4(number(words.x), number(words.y), number(words.z), number(words.w));
}

// A thread makes four numbers. 4 bytes a number, some 25 integer operations: 0.16 MB at batch 50 of 28 x 28, 0.05 us.
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

// `width` is the fours of a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    uniform_x4(float4* __restrict__ out, const unsigned* __restrict__ step, const unsigned* __restrict__ index,
               unsigned seed_low, unsigned seed_high, unsigned purpose, int is_signed, const unsigned* rows,
               int capacity, int width) {
    const long long i = global_thread();
    if (i >= static_cast<long long>(active_rows(rows, capacity)) * width) return;
    const unsigned block = static_cast<unsigned>(i % width);
    out[i] = noise_of(block, index[i / width], *step, purpose, seed_low, seed_high, is_signed != 0);
}
