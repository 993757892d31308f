// A network's first layer under attack. From images to its results in one launch: the point along a direction, if it is
// searched for, standardization, convolution, batch norm with ReLU. And back: the input gradient, the gradient of
// standardization and the step of PGD, in the second half of the file.
#include "conv_pool_direct.cuh"
#include "epilogue.cuh"
#include "layer_pair.cuh"
#include "standardize.cuh"

// --- from images to the layer's results ---

// Pixels whose sums a thread has in registers, each of FIRST_LAYER_FILTERS filters.
constexpr int FIRST_LAYER_PIXELS = 4;

// A block takes an image. Its numbers go into shared memory, are summed there, and standardized there. The filters are in
// shared memory, too, as [element][filter], so that a term's weights are four loads that all lanes of a warp share. A
// thread has four pixels, which are 256 apart, and 16 filters: 8 loads for 64 multiply-adds.
//
// WideResNet-28-4 at a batch of 128, 16 filters of 3 x 3 x 3: images 1.6 MB, standardized images 1.6 MB, results 8.4 MB,
// as halves 4.2 MB: 3.9 us, 2.5 us; 113 MFLOP, 2.4 us at 47 TFLOP/s. As launches of their own standardization and
// convolution move 3.1 MB more, and the convolution is a matrix product that uses 16 of its tile's 32 columns.
template <int VECTOR, class Out>
__device__ __forceinline__ void standardize_conv2d_of(
    Out* __restrict__ out, float* __restrict__ images, float* __restrict__ deviation, const float* __restrict__ x,
    const float* __restrict__ w, const PointAlong& point, const Epilogue& epilogue, const unsigned* __restrict__ rows,
    int capacity, const ConvShape& s) {
    DYN_SHARED(float, weights);
    constexpr int FILTERS = FIRST_LAYER_FILTERS, PIXELS = FIRST_LAYER_PIXELS;
    const int row = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const int elements = s.h * s.w * s.c, padded = ceil_div(s.k, FILTERS) * FILTERS, outputs = s.out_h * s.out_w;
    float* scales = weights + filter_size(s) * padded;
    float* shifts = scales + padded;
    float* image = shifts + padded;

    for (int i = thread; i < filter_size(s) * padded; i += THREADS) {
        const int element = i / padded, filter = i % padded;
        weights[i] = filter < s.k ? w[filter * filter_size(s) + element] : 0.0f;
    }
    for (int filter = thread; filter < s.k; filter += THREADS) {
        const EpilogueColumn column = epilogue_column(epilogue, filter);
        scales[filter] = column.scale, shifts[filter] = column.shift;
    }
    const size_t start = static_cast<size_t>(row) * elements;
    if (point.adv == nullptr) {
        for (int at = thread; at < elements; at += THREADS) image[at] = x[start + at];
    } else {
        const float* adv = point.adv + start;
        const AlongDirection along = point.of_row(x + start, row, elements);
        for (int at = thread; at < elements; at += THREADS) image[at] = along(x[start + at], adv[at]);
    }
    // A thread reads and writes its own numbers until the barrier.
    const auto sum_of = [=](auto f) {
        double sum = 0.0;
        for (int at = thread; at < elements; at += THREADS) sum += f(image[at]);
        return sum;
    };
    const Standardization standard(sum_of, elements);
    for (int at = thread; at < elements; at += THREADS) {
        image[at] = standard(image[at]);
        if (images != nullptr) images[start + at] = image[at];
    }
    if (deviation != nullptr && thread == 0) deviation[row] = standard.divisor;
    __syncthreads();

    for (int first = 0; first < s.k; first += FILTERS) {
        for (int base = thread; base < outputs; base += PIXELS * THREADS) {
            float sums[PIXELS][FILTERS] = {};
            int from_y[PIXELS], from_x[PIXELS];
#pragma unroll
            for (int p = 0; p < PIXELS; ++p) {
                const int pixel = base + p * THREADS, pixel_y = pixel / s.out_w;
                from_y[p] = pixel < outputs ? pixel_y * s.stride - s.padding : OUTSIDE;
                from_x[p] = (pixel - pixel_y * s.out_w) * s.stride - s.padding;
            }
#pragma unroll 1
            for (int tap = 0; tap < s.kh * s.kw; ++tap) {
                const int tap_y = divide(tap, s.by_kw), tap_x = tap - tap_y * s.kw;
                const float* of_tap = weights + tap * s.c * padded + first;
                const float* numbers[PIXELS];
                bool inside[PIXELS];
#pragma unroll
                for (int p = 0; p < PIXELS; ++p) {
                    const int y = from_y[p] + tap_y, x = from_x[p] + tap_x;
                    inside[p] = static_cast<unsigned>(y) < static_cast<unsigned>(s.h) &&
                                static_cast<unsigned>(x) < static_cast<unsigned>(s.w);
                    numbers[p] = image + (inside[p] ? (y * s.w + x) * s.c : 0);
                }
#pragma unroll 1
                for (int c = 0; c < s.c; ++c) {
                    float weight[FILTERS];
                    load_vector(weight, of_tap + c * padded);
#pragma unroll
                    for (int p = 0; p < PIXELS; ++p) {
                        const float number = inside[p] ? numbers[p][c] : 0.0f;
#pragma unroll
                        for (int f = 0; f < FILTERS; ++f) sums[p][f] = fmaf(number, weight[f], sums[p][f]);
                    }
                }
            }
#pragma unroll
            for (int p = 0; p < PIXELS; ++p) {
                const int pixel = base + p * THREADS;
                if (pixel >= outputs) break;
#pragma unroll
                for (int f = 0; f < FILTERS; f += VECTOR) {
                    if (first + f >= s.k) break;
                    const size_t at[1] = {(static_cast<size_t>(row) * outputs + pixel) * s.k + first + f};
                    float results[1][VECTOR];
                    EpilogueColumn columns[VECTOR];
                    for (int v = 0; v < VECTOR; ++v) {
                        results[0][v] = sums[p][f + v];
                        columns[v] = {scales[first + f + v], shifts[first + f + v]};
                    }
                    apply_epilogue<Out>(epilogue, results, at, 1, columns);
                    store_vector(out + at[0], results[0]);
                }
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    standardize_conv2d(float* out, float* images, float* deviation, const float* x, const float* w, const float* adv,
                       const float* ball, const float* t, int unit, int l2, int box, Epilogue epilogue,
                       const unsigned* rows, int capacity, ConvShape s) {
    const PointAlong point{adv, ball, t, unit != 0, l2 != 0, box != 0};
    standardize_conv2d_of<1>(out, images, deviation, x, w, point, epilogue, rows, capacity, s);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    standardize_conv2d_x4(float* out, float* images, float* deviation, const float* x, const float* w,
                          const float* adv, const float* ball, const float* t, int unit, int l2, int box,
                          Epilogue epilogue, const unsigned* rows, int capacity, ConvShape s) {
    const PointAlong point{adv, ball, t, unit != 0, l2 != 0, box != 0};
    standardize_conv2d_of<4>(out, images, deviation, x, w, point, epilogue, rows, capacity, s);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    standardize_conv2d_to_half(Half* out, float* images, float* deviation, const float* x, const float* w,
                               const float* adv, const float* ball, const float* t, int unit, int l2, int box,
                               Epilogue epilogue, const unsigned* rows, int capacity, ConvShape s) {
    const PointAlong point{adv, ball, t, unit != 0, l2 != 0, box != 0};
    standardize_conv2d_of<1>(out, images, deviation, x, w, point, epilogue, rows, capacity, s);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    standardize_conv2d_to_half_x8(Half* out, float* images, float* deviation, const float* x, const float* w,
                                  const float* adv, const float* ball, const float* t, int unit, int l2, int box,
                                  Epilogue epilogue, const unsigned* rows, int capacity, ConvShape s) {
    const PointAlong point{adv, ball, t, unit != 0, l2 != 0, box != 0};
    standardize_conv2d_of<8>(out, images, deviation, x, w, point, epilogue, rows, capacity, s);
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

// `pgd_step_linf` with the first layer of a network with pooling. The gradient of a pixel is known to one lane of a warp,
// which steps at once. LeNet5 at a batch of 50, from halves: 16 M operations, some 4 us, and 0.9 MB of gradients and
// choices; the step's 0.5 MB add 0.2 us, and save a launch and a gradient's way through memory. Splits of the gradients
// are added while they are loaded: three of them are 3.8 MB from the L2 cache, and save a launch that would read as much.
struct PooledStep {
    float* adv;
    const float *x, *eps, *step, *norm;

    __device__ __forceinline__ void operator()(size_t at, int row, float sum) const {
        adv[at] = linf_move(adv[at], x[at], sum * norm_factor(norm, row), eps[row], step[row]);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_fused_pooled(float* adv, const float* x, const float* dy, const float* eps, const float* step,
                          const float* w, const unsigned char* choice, const float* norm, const unsigned* rows,
                          int capacity, ConvShape s, int turns) {
    const PooledStep move{adv, x, eps, step, norm};
    conv_pool_backward_input_directly(move, StoredGradients<float>{dy}, choice, w, rows, capacity, s, turns);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_fused_pooled_from_half(float* adv, const float* x, const Half* dy, const float* eps, const float* step,
                                    const float* w, const unsigned char* choice, const float* norm,
                                    const unsigned* rows, int capacity, ConvShape s, int turns) {
    const PooledStep move{adv, x, eps, step, norm};
    conv_pool_backward_input_directly(move, StoredGradients<Half>{dy}, choice, w, rows, capacity, s, turns);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_fused_pooled_splits(float* adv, const float* x, const float* parts, const float* eps, const float* step,
                                 const float* w, const unsigned char* choice, const float* norm, const unsigned* rows,
                                 int capacity, ConvShape s, int turns, int splits) {
    const size_t stride = static_cast<size_t>(capacity) * (s.out_h / 2) * (s.out_w / 2) * s.k;
    const PooledStep move{adv, x, eps, step, norm};
    conv_pool_backward_input_directly(move, SplitGradients{parts, stride, splits}, choice, w, rows, capacity, s, turns);
}

// `pgd_step_fused_pooled` with two layers on halves, and with the splits of a linear layer's input gradient, which are
// the gradients of the second layer's results. LeNet5's at a batch of 50: 0.25 GFLOP of chosen outputs of the second layer
// on tensor cores, 16 M operations of the first; 1.2 MB, 0.4 us, and 3.1 MB of splits from the L2 cache.
//
// 100 blocks have a multiprocessor of an H100 each. A block takes 1,500 clocks to begin and end, some 2,000 for its
// operands, 6,400 for 3,200 HMMA, most of whose terms are zero, and 5,900 for the first layer, whose loads and shuffles
// move 128 bytes of shared memory a clock: 9.0 us. As launches of their own, with split sums between them, the layers
// take as long by like estimates, and the time of a launch, of one that adds the splits, and 3.8 MB of sums in the L2 cache.
extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_fused_two_pooled_splits(float* adv, const float* __restrict__ x, const float* __restrict__ dy,
                                     const float* __restrict__ eps, const float* __restrict__ step,
                                     const float* __restrict__ w, const unsigned char* __restrict__ first_choice,
                                     const Half* __restrict__ second_w, const unsigned char* __restrict__ choice,
                                     const float* __restrict__ norm, const unsigned* __restrict__ rows, int capacity,
                                     int h, int wide, int parts, int splits) {
    const PooledStep move{adv, x, eps, step, norm};
    two_layers_backward_input(move, dy, choice, second_w, w, first_choice, rows, capacity, h, wide, parts, splits);
}
