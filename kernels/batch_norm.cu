// Batch norm in both modes, with ReLU or without.
//
// x is `[items, c]`: the items are the pixels of all rows, `pixels` a row. A block takes `chunk` items and a warp's
// width of channels. So a thread has one channel, and computes that channel's factor and addend once. In the kernels
// whose name ends in _x4 a thread has a vector of four channels; `width` counts these vectors.
//
// All are bound by memory. The largest activations of WideResNet-28-4 at batch 128 are 128 x 32 x 32 x 64 numbers, 33.6
// MB: 11 us at 3.0 TB/s for each time that a kernel reads or writes them; as halves 16.8 MB, 5.6 us. A few FLOPs a
// number are no bound.
//
// M is the type in memory of x and of what has its shape: a float, a half, or a vector of four. V is the same type of
// floats.
#include "batch_norm.cuh"
#include "epilogue.cuh"
#include "last_block.cuh"
#include "prelude.cuh"
#include "vector.cuh"

// Thread map of a block: adjacent threads take adjacent channels, and the block takes as many items at once as it has
// threads for. Threads left over are idle. (In _x4 kernels a "channel" is a vector of four channels.)
struct ChannelThreadMap {
    int lanes;       // adjacent channels
    int together;    // items at once
    int width;       // channels of an item
    int channel;     // channel of this thread
    int first, end;  // items of this thread, `together` apart
    int left;        // items from the block's first one on
    int blocks;      // blocks along x that have items

    __device__ __forceinline__ ChannelThreadMap(const unsigned* rows, int capacity, int pixels, int width, int chunk)
        : lanes(min(width, WARP)), together(THREADS / lanes), width(width) {
        const int items = active_rows(rows, capacity) * pixels;
        const int start = static_cast<int>(blockIdx.x) * chunk, place = static_cast<int>(threadIdx.x) / lanes;
        channel = static_cast<int>(blockIdx.y) * WARP + static_cast<int>(threadIdx.x) % lanes;
        left = items - start;
        blocks = ceil_div(items, chunk);
        first = start + place;
        end = place < together && channel < width ? start + min(chunk, left) : 0;
    }

    // True if this thread has no item.
    __device__ __forceinline__ bool idle() const { return first >= end; }

    // True if no thread of the block has an item.
    __device__ __forceinline__ bool none() const { return left <= 0; }

    // Calls f(offset in x) for each item of this thread.
    template <typename F>
    __device__ __forceinline__ void for_each(F f) const {
#pragma unroll 4
        for (int item = first; item < end; item += together) f(static_cast<size_t>(item) * width + channel);
    }
};

// Factor and addend of a channel: y = x scale + shift. V is float or float4.
template <typename V>
struct Affine {
    V scale, shift;

    __device__ __forceinline__ Affine(V weight, V bias, V mean, V variance)
        : scale(each([](float w, float v) { return batch_norm_scale(w, v); }, weight, variance)),
          shift(each([](float b, float m, float s) { return batch_norm_shift(b, m, s); }, bias, mean, scale)) {}
};

// Gradient before ReLU: dy where ReLU is off or its input was positive, else 0.
__device__ __forceinline__ float before_relu(float dy, float x, float scale, float shift, bool relu) {
    return relu ? relu_gradient(dy, x * scale + shift) : dy;
}

// --- passes over all numbers ---

// y = x scale + shift, with ReLU. 8 bytes a number: 67 MB, 22 us. Also the last pass of training mode, with the
// batch's own mean and variance.
template <typename M, typename V>
__device__ __forceinline__ void batch_norm_of(M* __restrict__ y, const M* __restrict__ x, const V* __restrict__ weight,
                                              const V* __restrict__ bias, const V* __restrict__ mean,
                                              const V* __restrict__ variance, bool relu, const ChannelThreadMap& map) {
    if (map.idle()) return;
    const int at = map.channel;
    const Affine<V> affine(weight[at], bias[at], mean[at], variance[at]);
    const auto normalized = [=](float x, float scale, float shift) {
        const float value = x * scale + shift;
        return relu ? relu_of(value) : value;
    };
    map.for_each([&](size_t i) { write(y[i], each(normalized, read(x[i]), affine.scale, affine.shift)); });
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm(float* __restrict__ y, const float* __restrict__ x, const float* __restrict__ weight,
               const float* __restrict__ bias, const float* __restrict__ mean, const float* __restrict__ variance,
               int relu, const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk) {
    const ChannelThreadMap map(rows, capacity, pixels, width, chunk);
    batch_norm_of(y, x, weight, bias, mean, variance, relu != 0, map);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_x4(float4* __restrict__ y, const float4* __restrict__ x, const float4* __restrict__ weight,
                  const float4* __restrict__ bias, const float4* __restrict__ mean, const float4* __restrict__ variance,
                  int relu, const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk) {
    const ChannelThreadMap map(rows, capacity, pixels, width, chunk);
    batch_norm_of(y, x, weight, bias, mean, variance, relu != 0, map);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_half(Half* __restrict__ y, const Half* __restrict__ x, const float* __restrict__ weight,
                    const float* __restrict__ bias, const float* __restrict__ mean, const float* __restrict__ variance,
                    int relu, const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk) {
    const ChannelThreadMap map(rows, capacity, pixels, width, chunk);
    batch_norm_of(y, x, weight, bias, mean, variance, relu != 0, map);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_half_x4(Half4* __restrict__ y, const Half4* __restrict__ x, const float4* __restrict__ weight,
                       const float4* __restrict__ bias, const float4* __restrict__ mean,
                       const float4* __restrict__ variance, int relu, const unsigned* __restrict__ rows, int capacity,
                       int pixels, int width, int chunk) {
    const ChannelThreadMap map(rows, capacity, pixels, width, chunk);
    batch_norm_of(y, x, weight, bias, mean, variance, relu != 0, map);
}

// dx = dy scale; if y is given, 0 where y is not positive. 12 bytes a number: 101 MB, 34 us; without y 8 bytes.
template <typename M, typename V>
__device__ __forceinline__ void batch_norm_backward_input_of(M* __restrict__ dx, const M* __restrict__ dy,
                                                             const V* __restrict__ weight,
                                                             const V* __restrict__ variance, const M* __restrict__ y,
                                                             const ChannelThreadMap& map) {
    if (map.idle()) return;
    const auto scale_of = [](float w, float v) { return batch_norm_scale(w, v); };
    const V scale = each(scale_of, weight[map.channel], variance[map.channel]);
    const auto scaled = [](float dy, float scale) { return dy * scale; };
    const auto masked = [](float dy, float y, float scale) { return y > 0.0f ? dy * scale : 0.0f; };
    if (y == nullptr) {
        map.for_each([&](size_t i) { write(dx[i], each(scaled, read(dy[i]), scale)); });
    } else {
        map.for_each([&](size_t i) { write(dx[i], each(masked, read(dy[i]), read(y[i]), scale)); });
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_input(float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ weight,
                              const float* __restrict__ variance, const float* __restrict__ y,
                              const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk) {
    batch_norm_backward_input_of(dx, dy, weight, variance, y, ChannelThreadMap(rows, capacity, pixels, width, chunk));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_input_x4(float4* __restrict__ dx, const float4* __restrict__ dy,
                                 const float4* __restrict__ weight, const float4* __restrict__ variance,
                                 const float4* __restrict__ y, const unsigned* __restrict__ rows, int capacity,
                                 int pixels, int width, int chunk) {
    batch_norm_backward_input_of(dx, dy, weight, variance, y, ChannelThreadMap(rows, capacity, pixels, width, chunk));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_input_half(Half* __restrict__ dx, const Half* __restrict__ dy, const float* __restrict__ weight,
                                   const float* __restrict__ variance, const Half* __restrict__ y,
                                   const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk) {
    batch_norm_backward_input_of(dx, dy, weight, variance, y, ChannelThreadMap(rows, capacity, pixels, width, chunk));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_input_half_x4(Half4* __restrict__ dx, const Half4* __restrict__ dy,
                                      const float4* __restrict__ weight, const float4* __restrict__ variance,
                                      const Half4* __restrict__ y, const unsigned* __restrict__ rows, int capacity,
                                      int pixels, int width, int chunk) {
    batch_norm_backward_input_of(dx, dy, weight, variance, y, ChannelThreadMap(rows, capacity, pixels, width, chunk));
}

// dx = scale (dy - dbias / items - normalized x dweight / items) + addend, if there is one: the gradient of a residual
// block's identity shortcut. 12 bytes a number: 101 MB, 34 us; with the addend 16.
template <typename M, typename V>
__device__ __forceinline__ void batch_norm_training_backward_input_of(
    M* __restrict__ dx, const M* __restrict__ dy, const M* __restrict__ x, const V* __restrict__ weight,
    const V* __restrict__ bias, const V* __restrict__ mean, const V* __restrict__ variance,
    const V* __restrict__ dweight, const V* __restrict__ dbias, const M* __restrict__ addend, bool relu, int items,
    const ChannelThreadMap& map) {
    if (map.idle()) return;
    const int at = map.channel;
    const Affine<V> affine(weight[at], bias[at], mean[at], variance[at]);
    const V inverse = each([](float v) { return batch_norm_inverse(v); }, variance[at]), center = mean[at];
    const float count = static_cast<float>(items);
    const auto mean_of = [=](float sum) { return sum / count; };
    const V by_weight = each(mean_of, dweight[at]), by_bias = each(mean_of, dbias[at]);
    const auto gradient = [=](float dy, float x, float scale, float shift, float mean, float inverse, float by_weight,
                              float by_bias) {
        const float normalized = (x - mean) * inverse;
        return scale * (before_relu(dy, x, scale, shift, relu) - by_bias - normalized * by_weight);
    };
    const auto of = [&](size_t i) {
        return each(gradient, read(dy[i]), read(x[i]), affine.scale, affine.shift, center, inverse, by_weight, by_bias);
    };
    if (addend == nullptr) {
        map.for_each([&](size_t i) { write(dx[i], of(i)); });
    } else {
        const auto sum = [](float a, float b) { return a + b; };
        map.for_each([&](size_t i) { write(dx[i], each(sum, of(i), read(addend[i]))); });
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_training_backward_input(float* __restrict__ dx, const float* __restrict__ dy,
                                       const float* __restrict__ x, const float* __restrict__ weight,
                                       const float* __restrict__ bias, const float* __restrict__ mean,
                                       const float* __restrict__ variance, const float* __restrict__ dweight,
                                       const float* __restrict__ dbias, const float* __restrict__ addend, int relu,
                                       const unsigned* __restrict__ rows, int capacity, int pixels, int width,
                                       int chunk) {
    batch_norm_training_backward_input_of(dx, dy, x, weight, bias, mean, variance, dweight, dbias, addend, relu != 0,
                                          active_rows(rows, capacity) * pixels,
                                          ChannelThreadMap(rows, capacity, pixels, width, chunk));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_training_backward_input_x4(float4* __restrict__ dx, const float4* __restrict__ dy,
                                          const float4* __restrict__ x, const float4* __restrict__ weight,
                                          const float4* __restrict__ bias, const float4* __restrict__ mean,
                                          const float4* __restrict__ variance, const float4* __restrict__ dweight,
                                          const float4* __restrict__ dbias, const float4* __restrict__ addend, int relu,
                                          const unsigned* __restrict__ rows, int capacity, int pixels, int width,
                                          int chunk) {
    batch_norm_training_backward_input_of(dx, dy, x, weight, bias, mean, variance, dweight, dbias, addend, relu != 0,
                                          active_rows(rows, capacity) * pixels,
                                          ChannelThreadMap(rows, capacity, pixels, width, chunk));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_training_backward_input_half(Half* __restrict__ dx, const Half* __restrict__ dy,
                                       const Half* __restrict__ x, const float* __restrict__ weight,
                                       const float* __restrict__ bias, const float* __restrict__ mean,
                                       const float* __restrict__ variance, const float* __restrict__ dweight,
                                       const float* __restrict__ dbias, const Half* __restrict__ addend, int relu,
                                       const unsigned* __restrict__ rows, int capacity, int pixels, int width,
                                       int chunk) {
    batch_norm_training_backward_input_of(dx, dy, x, weight, bias, mean, variance, dweight, dbias, addend, relu != 0,
                                          active_rows(rows, capacity) * pixels,
                                          ChannelThreadMap(rows, capacity, pixels, width, chunk));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_training_backward_input_half_x4(Half4* __restrict__ dx, const Half4* __restrict__ dy,
                                          const Half4* __restrict__ x, const float4* __restrict__ weight,
                                          const float4* __restrict__ bias, const float4* __restrict__ mean,
                                          const float4* __restrict__ variance, const float4* __restrict__ dweight,
                                          const float4* __restrict__ dbias, const Half4* __restrict__ addend, int relu,
                                          const unsigned* __restrict__ rows, int capacity, int pixels, int width,
                                          int chunk) {
    batch_norm_training_backward_input_of(dx, dy, x, weight, bias, mean, variance, dweight, dbias, addend, relu != 0,
                                          active_rows(rows, capacity) * pixels,
                                          ChannelThreadMap(rows, capacity, pixels, width, chunk));
}

// --- two sums a channel over all items, in double precision: first splits, then the sum of the splits ---

__device__ __forceinline__ float number(float v, int) { return v; }
__device__ __forceinline__ float number(float4 v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// One split of the sums, to parts [c, splits]. `add(sums, i, numbers...)` adds the terms of one item: `numbers` are the
// numbers of all of `in` for the i-th channel of a vector. Each thread adds its own items, then the sums of a channel's
// threads are added in order. Every thread of the block calls it.
template <typename V, typename F, typename... In>
__device__ __forceinline__ void sum_items(double2* parts, int splits, const ChannelThreadMap& map, F add,
                                          const In* __restrict__... in) {
    constexpr int N = sizeof(V) / sizeof(float);
    SHARED(double, sums, [2 * N][THREADS]);
    const int lanes = map.lanes, thread = static_cast<int>(threadIdx.x);
    double2 own[N];
#pragma unroll
    for (int i = 0; i < N; ++i) own[i] = make_double2(0.0, 0.0);
    const auto add_place = [&](auto... values) {
#pragma unroll
        for (int i = 0; i < N; ++i) add(own[i], i, number(values, i)...);
    };
    map.for_each([&](size_t at) { add_place(read(in[at])...); });
#pragma unroll
    for (int i = 0; i < N; ++i) {
        sums[2 * i][thread] = own[i].x;
        sums[2 * i + 1][thread] = own[i].y;
    }
    __syncthreads();
    static_assert(2 * N * WARP <= THREADS, "a thread for each of a block's sums");
    const int which = thread / lanes, lane = thread % lanes, place = static_cast<int>(blockIdx.y) * WARP + lane;
    if (which >= 2 * N || place >= map.width) return;
    double sum = 0.0;
    for (int other = 0; other < map.together; ++other) sum += sums[which][other * lanes + lane];
    double2& to = parts[static_cast<size_t>(place * N + which / 2) * splits + blockIdx.x];
    (which % 2 == 0 ? to.x : to.y) = sum;
}

// The sums of the block's channels from the splits of all blocks, in the last block. `finish(channel, sums)` takes
// them. The lanes of a warp each add some splits of a channel, then the lanes are added. A warp takes two channels at a
// time, so that enough loads are in flight: the other blocks have ended. Every thread of the block calls it.
//
// 16 bytes a split, at most 256 of them a channel: 0.26 MB for 64 channels, which come from the L2 cache. One
// multiprocessor reads them in 2 to 4 us, as long as a launch that has more of them.
template <typename V, typename F>
__device__ __forceinline__ void finish_sums(const double2* parts, unsigned* counters, int splits,
                                            const ChannelThreadMap& map, F finish) {
    constexpr int N = sizeof(V) / sizeof(float), WARPS = THREADS / WARP;
    SHARED(double2, totals, [N * WARP]);
    static_assert(N * WARP <= THREADS, "a thread for each of a block's channels");
    if (!is_last_block(counters + blockIdx.y, map.blocks)) return;
    const int first = static_cast<int>(blockIdx.y) * WARP * N, channels = min(map.width * N - first, N * WARP);
    const int warp = static_cast<int>(threadIdx.x) / WARP, lane = static_cast<int>(threadIdx.x) % WARP;
    for (int channel = 2 * warp; channel < channels; channel += 2 * WARPS) {
        const int next = min(channel + 1, channels - 1);
        const double2* a = parts + static_cast<size_t>(first + channel) * splits;
        const double2* b = parts + static_cast<size_t>(first + next) * splits;
        double2 sums[2] = {make_double2(0.0, 0.0), make_double2(0.0, 0.0)};
#pragma unroll 4
        for (int split = lane; split < map.blocks; split += WARP) {
            sums[0].x += a[split].x;
            sums[0].y += a[split].y;
            sums[1].x += b[split].x;
            sums[1].y += b[split].y;
        }
        const double2 both[2] = {make_double2(warp_sum(sums[0].x), warp_sum(sums[0].y)),
                                 make_double2(warp_sum(sums[1].x), warp_sum(sums[1].y))};
        if (lane == 0) {
            totals[channel] = both[0];
            totals[next] = next == channel ? both[0] : both[1];
        }
    }
    __syncthreads();
    const int own = static_cast<int>(threadIdx.x);
    if (own < channels) finish(first + own, totals[own]);
}

// Mean and variance of the batch, and the running statistics. Without an active row nothing changes. The splits are
// those of the sums of x - origin and of its square, where origin is the first item of the channel. The origin is close
// enough to the mean that the variance loses no digits of single precision, however far from 0 the mean is. 4 bytes a
// number: 33.6 MB, 11 us; 2 bytes for halves.
template <typename V, typename M, typename Element>
__device__ __forceinline__ void batch_norm_training_statistics_of(StatisticsResults results, double2* parts,
                                                                  unsigned* counters, const M* x,
                                                                  const Element* numbers, const ChannelThreadMap& map,
                                                                  int items, int splits) {
    if (map.none()) return;
    const V origin = read(x[min(map.channel, map.width - 1)]);
    const auto add = [=](double2& sums, int i, float x) {
        const double from_origin = static_cast<double>(x) - static_cast<double>(number(origin, i));
        sums.x += from_origin;
        sums.y = fma(from_origin, from_origin, sums.y);
    };
    sum_items<V>(parts, splits, map, add, x);
    finish_sums<V>(parts, counters, splits, map, [=](int channel, double2 sums) {
        const double count = items, from_origin = sums.x / count, squares = sums.y - sums.x * from_origin;
        results.set(channel, static_cast<double>(read(numbers[channel])) + from_origin, squares, count);
    });
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_training_statistics(float* mean, float* variance, float* running_mean, float* running_variance,
                                   double2* parts, unsigned* counters, const float* __restrict__ x,
                                   const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk,
                                   int splits) {
    const ChannelThreadMap map(rows, capacity, pixels, width, chunk);
    batch_norm_training_statistics_of<float>({mean, variance, running_mean, running_variance}, parts, counters, x,
                                          x, map, active_rows(rows, capacity) * pixels, splits);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_training_statistics_x4(float* mean, float* variance, float* running_mean, float* running_variance,
                                   double2* parts, unsigned* counters, const float4* __restrict__ x,
                                   const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk,
                                   int splits) {
    const ChannelThreadMap map(rows, capacity, pixels, width, chunk);
    batch_norm_training_statistics_of<float4>({mean, variance, running_mean, running_variance}, parts, counters, x,
                                          reinterpret_cast<const float*>(x), map,
                                          active_rows(rows, capacity) * pixels, splits);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_training_statistics_half(float* mean, float* variance, float* running_mean, float* running_variance,
                                   double2* parts, unsigned* counters, const Half* __restrict__ x,
                                   const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk,
                                   int splits) {
    const ChannelThreadMap map(rows, capacity, pixels, width, chunk);
    batch_norm_training_statistics_of<float>({mean, variance, running_mean, running_variance}, parts, counters, x,
                                          x, map, active_rows(rows, capacity) * pixels, splits);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_training_statistics_half_x4(float* mean, float* variance, float* running_mean, float* running_variance,
                                   double2* parts, unsigned* counters, const Half4* __restrict__ x,
                                   const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk,
                                   int splits) {
    const ChannelThreadMap map(rows, capacity, pixels, width, chunk);
    batch_norm_training_statistics_of<float4>({mean, variance, running_mean, running_variance}, parts, counters, x,
                                          reinterpret_cast<const Half*>(x), map,
                                          active_rows(rows, capacity) * pixels, splits);
}

// Sums of the gradient before ReLU times the normalized x, and of that gradient alone: 0 without an active row. 8 bytes
// a number: 67 MB, 22 us.
template <typename M, typename V>
__device__ __forceinline__ void batch_norm_backward_weight_of(
    float* dweight, float* dbias, double2* parts, unsigned* counters, const M* dy, const M* x,
    const V* __restrict__ weight, const V* __restrict__ bias, const V* __restrict__ mean,
    const V* __restrict__ variance, bool relu, const ChannelThreadMap& map, int splits) {
    const auto finish = [=](int channel, double2 sums) {
        dweight[channel] = static_cast<float>(sums.x);
        dbias[channel] = static_cast<float>(sums.y);
    };
    if (map.blocks == 0 && blockIdx.x + blockIdx.y == 0) {
        const int channels = map.width * static_cast<int>(sizeof(V) / sizeof(float));
        for (int c = static_cast<int>(threadIdx.x); c < channels; c += THREADS) finish(c, make_double2(0.0, 0.0));
    }
    if (map.none()) return;
    const int at = min(map.channel, map.width - 1);
    const Affine<V> affine(weight[at], bias[at], mean[at], variance[at]);
    const V inverse = each([](float v) { return batch_norm_inverse(v); }, variance[at]), center = mean[at];
    const auto add = [=](double2& sums, int i, float dy, float x) {
        const float gradient = before_relu(dy, x, number(affine.scale, i), number(affine.shift, i), relu);
        sums.x += static_cast<double>(gradient * ((x - number(center, i)) * number(inverse, i)));
        sums.y += static_cast<double>(gradient);
    };
    sum_items<V>(parts, splits, map, add, dy, x);
    finish_sums<V>(parts, counters, splits, map, finish);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_weight(float* dweight, float* dbias, double2* parts, unsigned* counters,
                               const float* __restrict__ dy, const float* __restrict__ x,
                               const float* __restrict__ weight, const float* __restrict__ bias,
                               const float* __restrict__ mean, const float* __restrict__ variance, int relu,
                               const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk,
                               int splits) {
    batch_norm_backward_weight_of(dweight, dbias, parts, counters, dy, x, weight, bias, mean, variance, relu != 0,
                                  ChannelThreadMap(rows, capacity, pixels, width, chunk), splits);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_weight_x4(float* dweight, float* dbias, double2* parts, unsigned* counters,
                               const float4* __restrict__ dy, const float4* __restrict__ x,
                               const float4* __restrict__ weight, const float4* __restrict__ bias,
                               const float4* __restrict__ mean, const float4* __restrict__ variance, int relu,
                               const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk,
                               int splits) {
    batch_norm_backward_weight_of(dweight, dbias, parts, counters, dy, x, weight, bias, mean, variance, relu != 0,
                                  ChannelThreadMap(rows, capacity, pixels, width, chunk), splits);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_weight_from_half(float* dweight, float* dbias, double2* parts, unsigned* counters,
                               const Half* __restrict__ dy, const Half* __restrict__ x,
                               const float* __restrict__ weight, const float* __restrict__ bias,
                               const float* __restrict__ mean, const float* __restrict__ variance, int relu,
                               const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk,
                               int splits) {
    batch_norm_backward_weight_of(dweight, dbias, parts, counters, dy, x, weight, bias, mean, variance, relu != 0,
                                  ChannelThreadMap(rows, capacity, pixels, width, chunk), splits);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    batch_norm_backward_weight_from_half_x4(float* dweight, float* dbias, double2* parts, unsigned* counters,
                               const Half4* __restrict__ dy, const Half4* __restrict__ x,
                               const float4* __restrict__ weight, const float4* __restrict__ bias,
                               const float4* __restrict__ mean, const float4* __restrict__ variance, int relu,
                               const unsigned* __restrict__ rows, int capacity, int pixels, int width, int chunk,
                               int splits) {
    batch_norm_backward_weight_of(dweight, dbias, parts, counters, dy, x, weight, bias, mean, variance, relu != 0,
                                  ChannelThreadMap(rows, capacity, pixels, width, chunk), splits);
}
