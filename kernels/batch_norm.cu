// Batch norm in both modes, with ReLU or without.
//
// x is `[items, c]`: the items are the pixels of all rows, `pixels` a row. A block takes `chunk` items and a warp's
// width of channels, so a thread keeps to its channel, and what is made of that channel's numbers is made once. In the
// kernels whose name ends in _x4 a thread keeps to four channels; `width` counts these fours.
//
// All are bound by memory. Of WideResNet-28-4 at batch 128 the largest activations are 128 x 32 x 32 x 64 numbers, 33.6
// MB: 11 us at 3.0 TB/s for each time that a kernel reads or writes them. FLOPs are a few a number, and no bound.
#include "batch_norm.cuh"
#include "epilogue.cuh"
#include "prelude.cuh"
#include "vector.cuh"

// Where a thread works: a block's threads lie side by side over its channels, and over as many items at once as there
// are threads for. A thread too many has none. (A channel stands for four of them where there are fours.)
struct Spot {
    int lanes;       // channels side by side
    int together;    // items at once
    int width;       // channels of an item
    int channel;     // this thread's
    int first, end;  // of its items, each `together` after the one before
    int left;        // items from the block's first one on

    __device__ __forceinline__ Spot(const unsigned* rows, int capacity, int pixels, int width, int chunk)
        : lanes(min(width, WARP)), together(THREADS / lanes), width(width) {
        const int items = active_rows(rows, capacity) * pixels;
        const int start = static_cast<int>(blockIdx.x) * chunk, place = static_cast<int>(threadIdx.x) / lanes;
        channel = static_cast<int>(blockIdx.y) * WARP + static_cast<int>(threadIdx.x) % lanes;
        left = items - start;
        first = start + place;
        end = place < together && channel < width ? start + min(chunk, left) : 0;
    }

    // Whether this thread has no item.
    __device__ __forceinline__ bool idle() const { return first >= end; }

    // Whether no thread of the block has.
    __device__ __forceinline__ bool none() const { return left <= 0; }

    // f(place in x) for each of its items.
    template <typename F>
    __device__ __forceinline__ void for_each(F f) const {
#pragma unroll 4
        for (int item = first; item < end; item += together) f(static_cast<size_t>(item) * width + channel);
    }
};

// What x is multiplied by in a channel, and what is added then. V is float or float4.
template <typename V>
struct Affine {
    V scale, shift;

    __device__ __forceinline__ Affine(V weight, V bias, V mean, V variance)
        : scale(each([](float w, float v) { return batch_norm_scale(w, v); }, weight, variance)),
          shift(each([](float b, float m, float s) { return batch_norm_shift(b, m, s); }, bias, mean, scale)) {}
};

// dy where ReLU, if there is one, let x pass.
__device__ __forceinline__ float passed(float dy, float x, float scale, float shift, bool relu) {
    return relu ? relu_gradient(dy, x * scale + shift) : dy;
}

// --- a pass over all numbers ---

// y = x scale + shift, with ReLU. 8 bytes a number: 67 MB, 22 us. The last pass of training mode, too, then with the
// batch's own mean and variance.
template <typename V>
__device__ __forceinline__ void batch_norm_of(V* __restrict__ y, const V* __restrict__ x, const V* __restrict__ weight,
                                              const V* __restrict__ bias, const V* __restrict__ mean,
                                              const V* __restrict__ variance, bool relu, const Spot& spot) {
    if (spot.idle()) return;
    const int at = spot.channel;
    const Affine<V> affine(weight[at], bias[at], mean[at], variance[at]);
    const auto normalized = [=](float x, float scale, float shift) {
        const float value = x * scale + shift;
        return relu ? relu_of(value) : value;
    };
    spot.for_each([&](size_t i) { y[i] = each(normalized, x[i], affine.scale, affine.shift); });
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm(float* __restrict__ y, const float* __restrict__ x, const float* __restrict__ weight,
               const float* __restrict__ bias, const float* __restrict__ mean, const float* __restrict__ variance,
               int relu, const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk) {
    batch_norm_of(y, x, weight, bias, mean, variance, relu != 0, Spot(rows, capacity, pixels, width, chunk));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_x4(float4* __restrict__ y, const float4* __restrict__ x, const float4* __restrict__ weight,
                  const float4* __restrict__ bias, const float4* __restrict__ mean, const float4* __restrict__ variance,
                  int relu, const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk) {
    batch_norm_of(y, x, weight, bias, mean, variance, relu != 0, Spot(rows, capacity, pixels, width, chunk));
}

// dx = dy scale; with y, where that is positive. 12 bytes a number: 101 MB, 34 us; without y 8 bytes.
template <typename V>
__device__ __forceinline__ void batch_norm_backward_input_of(V* __restrict__ dx, const V* __restrict__ dy,
                                                             const V* __restrict__ weight,
                                                             const V* __restrict__ variance, const V* __restrict__ y,
                                                             const Spot& spot) {
    if (spot.idle()) return;
    const auto scale_of = [](float w, float v) { return batch_norm_scale(w, v); };
    const V scale = each(scale_of, weight[spot.channel], variance[spot.channel]);
    const auto scaled = [](float dy, float scale) { return dy * scale; };
    const auto masked = [](float dy, float y, float scale) { return y > 0.0f ? dy * scale : 0.0f; };
    if (y == nullptr) {
        spot.for_each([&](size_t i) { dx[i] = each(scaled, dy[i], scale); });
    } else {
        spot.for_each([&](size_t i) { dx[i] = each(masked, dy[i], y[i], scale); });
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_input(float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ weight,
                              const float* __restrict__ variance, const float* __restrict__ y,
                              const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk) {
    batch_norm_backward_input_of(dx, dy, weight, variance, y, Spot(rows, capacity, pixels, width, chunk));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_input_x4(float4* __restrict__ dx, const float4* __restrict__ dy,
                                 const float4* __restrict__ weight, const float4* __restrict__ variance,
                                 const float4* __restrict__ y, const unsigned* __restrict__ rows, int capacity,
                                 int pixels, int width, int chunk) {
    batch_norm_backward_input_of(dx, dy, weight, variance, y, Spot(rows, capacity, pixels, width, chunk));
}

// dx = scale (dy - dbias / items - normalized x dweight / items). 12 bytes a number: 101 MB, 34 us.
template <typename V>
__device__ __forceinline__ void batch_norm_training_backward_input_of(
    V* __restrict__ dx, const V* __restrict__ dy, const V* __restrict__ x, const V* __restrict__ weight,
    const V* __restrict__ bias, const V* __restrict__ mean, const V* __restrict__ variance,
    const V* __restrict__ dweight, const V* __restrict__ dbias, bool relu, int items, const Spot& spot) {
    if (spot.idle()) return;
    const int at = spot.channel;
    const Affine<V> affine(weight[at], bias[at], mean[at], variance[at]);
    const V inverse = each([](float v) { return batch_norm_inverse(v); }, variance[at]), center = mean[at];
    const float count = static_cast<float>(items);
    const auto share = [=](float sum) { return sum / count; };
    const V by_weight = each(share, dweight[at]), by_bias = each(share, dbias[at]);
    const auto gradient = [=](float dy, float x, float scale, float shift, float mean, float inverse, float by_weight,
                              float by_bias) {
        const float normalized = (x - mean) * inverse;
        return scale * (passed(dy, x, scale, shift, relu) - by_bias - normalized * by_weight);
    };
    spot.for_each([&](size_t i) {
        dx[i] = each(gradient, dy[i], x[i], affine.scale, affine.shift, center, inverse, by_weight, by_bias);
    });
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_training_backward_input(float* __restrict__ dx, const float* __restrict__ dy,
                                       const float* __restrict__ x, const float* __restrict__ weight,
                                       const float* __restrict__ bias, const float* __restrict__ mean,
                                       const float* __restrict__ variance, const float* __restrict__ dweight,
                                       const float* __restrict__ dbias, int relu, const unsigned* __restrict__ rows,
                                       int capacity, int pixels, int width, int chunk) {
    batch_norm_training_backward_input_of(dx, dy, x, weight, bias, mean, variance, dweight, dbias, relu != 0,
                                          active_rows(rows, capacity) * pixels,
                                          Spot(rows, capacity, pixels, width, chunk));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_training_backward_input_x4(float4* __restrict__ dx, const float4* __restrict__ dy,
                                          const float4* __restrict__ x, const float4* __restrict__ weight,
                                          const float4* __restrict__ bias, const float4* __restrict__ mean,
                                          const float4* __restrict__ variance, const float4* __restrict__ dweight,
                                          const float4* __restrict__ dbias, int relu, const unsigned* __restrict__ rows,
                                          int capacity, int pixels, int width, int chunk) {
    batch_norm_training_backward_input_of(dx, dy, x, weight, bias, mean, variance, dweight, dbias, relu != 0,
                                          active_rows(rows, capacity) * pixels,
                                          Spot(rows, capacity, pixels, width, chunk));
}

// --- sums over all items, two a channel, in double: shares of them, then the sum of the shares ---

__device__ __forceinline__ float number(float v, int) { return v; }
__device__ __forceinline__ float number(float4 v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// A block's share of the sums, to parts [c, shares]. `add(sums, i, numbers...)` adds what the numbers of all of `in`
// give at one place, the i-th of four. Each thread adds its own items; then a channel's threads are added in order.
// Every thread of the block calls it.
template <typename V, typename F, typename... In>
__device__ __forceinline__ void sum_items(double2* __restrict__ parts, int shares, const Spot& spot, F add,
                                          const In* __restrict__... in) {
    constexpr int N = sizeof(V) / sizeof(float);
    SHARED(double, sums, [2 * N][THREADS]);
    const int lanes = spot.lanes, thread = static_cast<int>(threadIdx.x);
    double2 own[N];
#pragma unroll
    for (int i = 0; i < N; ++i) own[i] = make_double2(0.0, 0.0);
    const auto add_place = [&](auto... values) {
#pragma unroll
        for (int i = 0; i < N; ++i) add(own[i], i, number(values, i)...);
    };
    spot.for_each([&](size_t at) { add_place(in[at]...); });
#pragma unroll
    for (int i = 0; i < N; ++i) {
        sums[2 * i][thread] = own[i].x;
        sums[2 * i + 1][thread] = own[i].y;
    }
    __syncthreads();
    static_assert(2 * N * WARP <= THREADS, "a thread for each of a block's sums");
    const int which = thread / lanes, lane = thread % lanes, place = static_cast<int>(blockIdx.y) * WARP + lane;
    if (which >= 2 * N || place >= spot.width) return;
    double sum = 0.0;
    for (int other = 0; other < spot.together; ++other) sum += sums[which][other * lanes + lane];
    double2& to = parts[static_cast<size_t>(place * N + which / 2) * shares + blockIdx.x];
    (which % 2 == 0 ? to.x : to.y) = sum;
}

// A channel's sums from its shares, of which `active` have items: a warp's lanes add some each, then one another.
__device__ __forceinline__ double2 sum_shares(const double2* __restrict__ parts, int channel, int shares, int active) {
    const double2* of_channel = parts + static_cast<size_t>(channel) * shares;
    double2 sums = make_double2(0.0, 0.0);
#pragma unroll 4
    for (int share = static_cast<int>(threadIdx.x) % WARP; share < active; share += WARP) {
        sums.x += of_channel[share].x;
        sums.y += of_channel[share].y;
    }
    return make_double2(warp_sum(sums.x), warp_sum(sums.y));
}

__device__ __forceinline__ int warp_channel() {
    return static_cast<int>(blockIdx.x) * (THREADS / WARP) + static_cast<int>(threadIdx.x) / WARP;
}

// Of x less its first item, and of the square of that: near enough to the deviations from the mean that the variance
// loses no digits that double precision does not have to spare, however far from 0 the mean is. 4 bytes a number:
// 33.6 MB, 11 us.
template <typename V>
__device__ __forceinline__ void batch_norm_training_splits_of(double2* parts, const V* x, const unsigned* rows,
                                                              int capacity, int pixels, int width, int chunk,
                                                              int shares) {
    const Spot spot(rows, capacity, pixels, width, chunk);
    if (spot.none()) return;
    const V origin = x[min(spot.channel, width - 1)];
    const auto add = [=](double2& sums, int i, float x) {
        const double from_origin = static_cast<double>(x) - static_cast<double>(number(origin, i));
        sums.x += from_origin;
        sums.y = fma(from_origin, from_origin, sums.y);
    };
    sum_items<V>(parts, shares, spot, add, x);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_training_splits(double2* __restrict__ parts, const float* __restrict__ x,
                               const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk,
                               int shares) {
    batch_norm_training_splits_of(parts, x, rows, capacity, pixels, width, chunk, shares);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_training_splits_x4(double2* __restrict__ parts, const float4* __restrict__ x,
                                  const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk,
                                  int shares) {
    batch_norm_training_splits_of(parts, x, rows, capacity, pixels, width, chunk, shares);
}

__device__ __forceinline__ float moved(float from, float to) { return (1.0f - BATCH_NORM_MOMENTUM) * from + BATCH_NORM_MOMENTUM * to; }

// The batch's mean and variance from the shares of the sums, and the running ones; without a row all stay. A warp a
// channel. 16 bytes a share, at most 256 of them a channel: 0.26 MB for 64 channels, from a cache.
extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_training_statistics(float* __restrict__ mean, float* __restrict__ variance,
                                   float* __restrict__ running_mean, float* __restrict__ running_variance,
                                   const double2* __restrict__ parts, const float* __restrict__ x,
                                   const unsigned* __restrict__ rows, int capacity, int pixels, int c, int chunk,
                                   int shares) {
    const int channel = warp_channel(), items = active_rows(rows, capacity) * pixels;
    if (channel >= c || items == 0) return;
    const double2 sums = sum_shares(parts, channel, shares, ceil_div(items, chunk));
    if (threadIdx.x % WARP > 0) return;
    const double count = items, from_origin = sums.x / count, squares = sums.y - sums.x * from_origin;
    const float center = static_cast<float>(static_cast<double>(x[channel]) + from_origin);
    mean[channel] = center;
    variance[channel] = static_cast<float>(squares / count);
    running_mean[channel] = moved(running_mean[channel], center);
    const float unbiased = static_cast<float>(squares / max(count - 1.0, 1.0));
    running_variance[channel] = moved(running_variance[channel], unbiased);
}

// Of dy, where ReLU let x pass, times the normalized x; and of dy alone. 8 bytes a number: 67 MB, 22 us.
template <typename V>
__device__ __forceinline__ void batch_norm_backward_weight_splits_of(
    double2* parts, const V* dy, const V* x, const V* __restrict__ weight, const V* __restrict__ bias,
    const V* __restrict__ mean, const V* __restrict__ variance, bool relu, const Spot& spot, int shares) {
    if (spot.none()) return;
    const int at = min(spot.channel, spot.width - 1);
    const Affine<V> affine(weight[at], bias[at], mean[at], variance[at]);
    const V inverse = each([](float v) { return batch_norm_inverse(v); }, variance[at]), center = mean[at];
    const auto add = [=](double2& sums, int i, float dy, float x) {
        const float gradient = passed(dy, x, number(affine.scale, i), number(affine.shift, i), relu);
        sums.x += static_cast<double>(gradient * ((x - number(center, i)) * number(inverse, i)));
        sums.y += static_cast<double>(gradient);
    };
    sum_items<V>(parts, shares, spot, add, dy, x);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_weight_splits(double2* __restrict__ parts, const float* __restrict__ dy,
                                      const float* __restrict__ x, const float* __restrict__ weight,
                                      const float* __restrict__ bias, const float* __restrict__ mean,
                                      const float* __restrict__ variance, int relu, const unsigned* __restrict__ rows,
                                      int capacity, int pixels, int width, int chunk, int shares) {
    batch_norm_backward_weight_splits_of(parts, dy, x, weight, bias, mean, variance, relu != 0,
                                         Spot(rows, capacity, pixels, width, chunk), shares);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_weight_splits_x4(double2* __restrict__ parts, const float4* __restrict__ dy,
                                         const float4* __restrict__ x, const float4* __restrict__ weight,
                                         const float4* __restrict__ bias, const float4* __restrict__ mean,
                                         const float4* __restrict__ variance, int relu,
                                         const unsigned* __restrict__ rows, int capacity, int pixels, int width,
                                         int chunk, int shares) {
    batch_norm_backward_weight_splits_of(parts, dy, x, weight, bias, mean, variance, relu != 0,
                                         Spot(rows, capacity, pixels, width, chunk), shares);
}

// The sums from their shares: 0 without a row. A warp a channel.
extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_weight(float* __restrict__ dweight, float* __restrict__ dbias,
                               const double2* __restrict__ parts, const unsigned* __restrict__ rows, int capacity,
                               int pixels, int c, int chunk, int shares) {
    const int channel = warp_channel(), items = active_rows(rows, capacity) * pixels;
    if (channel >= c) return;
    const double2 sums = sum_shares(parts, channel, shares, ceil_div(items, chunk));
    if (threadIdx.x % WARP > 0) return;
    dweight[channel] = static_cast<float>(sums.x);
    dbias[channel] = static_cast<float>(sums.y);
}
