// Convolution, bias, ReLU and 2 x 2 max-pooling in one kernel, and its gradients.
//
// Outputs before pooling never reach memory: the four of a pooling window are adjacent rows of one thread tile. For
// LeNet5's first convolution at a batch of 50 this saves writing and reading 5 MB (3 us); 1.6 MB remain, with 0.06
// GFLOP, 1.3 us at 47 TFLOP/s. conv.cu has the arithmetic of the second convolution.
#include "bias.cuh"
#include "conv_pool_direct.cuh"
#include "gemm_half_weight.cuh"
#include "layer_pair.cuh"

template <class T, class Out>
__device__ __forceinline__ void conv_pool_tile(
    Out* out, unsigned char* choice, const float* x, const float* w, const float* bias, const unsigned* rows,
    int capacity, const ConvShape& s) {
    const int outputs = active_rows(rows, capacity) * (s.out_h * s.out_w);
    const KMajor filters{w, s.k, filter_size(s)};
    const PoolStore<Out> pool{out, choice, bias, outputs, s.k};
    gemm<T>(outputs, s.k, s.chunk, pool, GemmOperands{WindowsKMajor<true>{s, x, outputs}, filters, filter_size(s)});
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    conv_pool_scalar(float* __restrict__ out, unsigned char* __restrict__ choice, const float* __restrict__ x,
                     const float* __restrict__ w, const float* __restrict__ bias, const unsigned* __restrict__ rows,
                     int capacity, ConvShape s) {
    conv_pool_tile<Scalar>(out, choice, x, w, bias, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Narrow::THREADS)
    conv_pool_narrow(float* __restrict__ out, unsigned char* __restrict__ choice, const float* __restrict__ x,
                     const float* __restrict__ w, const float* __restrict__ bias, const unsigned* __restrict__ rows,
                     int capacity, ConvShape s) {
    conv_pool_tile<Narrow>(out, choice, x, w, bias, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Square::THREADS)
    conv_pool_square(float* __restrict__ out, unsigned char* __restrict__ choice, const float* __restrict__ x,
                     const float* __restrict__ w, const float* __restrict__ bias, const unsigned* __restrict__ rows,
                     int capacity, ConvShape s) {
    conv_pool_tile<Square>(out, choice, x, w, bias, rows, capacity, s);
}
// The first layer of a network in half precision. LeNet5's at a batch of 50: 0.06 GFLOP, 1.3 us; 1.1 MB.
extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    conv_pool_scalar_to_half(Half* __restrict__ out, unsigned char* __restrict__ choice, const float* __restrict__ x,
                             const float* __restrict__ w, const float* __restrict__ bias,
                             const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_tile<Scalar>(out, choice, x, w, bias, rows, capacity, s);
}

// conv2d_backward_input on gradients of which three of four are zero. Multiplying the zeros costs less than skipping
// them lane by lane: 32 channels of a pixel would take 400 multiply-adds instead of 1600, but some ten instructions
// each.
template <class T, class Dy>
__device__ __forceinline__ void conv_pool_backward_input_tile(
    float* dx, const Dy* dy, const unsigned char* choice, const float* w, const unsigned* rows, int capacity,
    const ConvShape& s) {
    const PixelClass pixel_class(s, blockIdx.z);
    const int pixels = active_rows(rows, capacity) * pixel_class.pixels();
    float* split = dx + static_cast<size_t>(blockIdx.y) * capacity * (s.h * s.w * s.c);
    const TileStore<T::VECTOR, ClassOrder> store{split, s.c, {pixels, s, pixel_class}, {}};
    const GradientsKMajor<true, Dy> gradients{s, pixel_class, dy, choice, pixels};
    gemm<T>(pixels, s.c, s.chunk, store,
            GemmOperands{gradients, FiltersMnMajor{s, pixel_class, w}, pixel_class.taps_y * pixel_class.taps_x * s.k});
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS, RESIDENT_BLOCKS)
    conv_pool_backward_input_scalar(float* __restrict__ dx, const float* __restrict__ dy,
                                    const unsigned char* __restrict__ choice, const float* __restrict__ w,
                                    const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_backward_input_tile<Scalar>(dx, dy, choice, w, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Narrow::THREADS)
    conv_pool_backward_input_narrow(float* __restrict__ dx, const float* __restrict__ dy,
                                    const unsigned char* __restrict__ choice, const float* __restrict__ w,
                                    const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_backward_input_tile<Narrow>(dx, dy, choice, w, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Square::THREADS)
    conv_pool_backward_input_square(float* __restrict__ dx, const float* __restrict__ dy,
                                    const unsigned char* __restrict__ choice, const float* __restrict__ w,
                                    const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_backward_input_tile<Square>(dx, dy, choice, w, rows, capacity, s);
}
// From a half-precision gradient. 5 x 5, 32 -> 8 channels, 28 x 28 pixels, batch 50: 0.13 GFLOP of chosen outputs, 2.7
// us; 2.2 MB, 0.7 us.
extern "C" __global__ void __launch_bounds__(Scalar::THREADS, RESIDENT_BLOCKS)
    conv_pool_backward_input_scalar_from_half(float* __restrict__ dx, const Half* __restrict__ dy,
                                              const unsigned char* __restrict__ choice, const float* __restrict__ w,
                                              const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_backward_input_tile<Scalar>(dx, dy, choice, w, rows, capacity, s);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    conv_pool_backward_input_direct(float* __restrict__ dx, const float* __restrict__ dy,
                                    const unsigned char* __restrict__ choice, const float* __restrict__ w,
                                    const unsigned* __restrict__ rows, int capacity, ConvShape s, int turns) {
    const auto store = [=](size_t at, int, float sum) { dx[at] = sum; };
    conv_pool_backward_input_directly(store, StoredGradients<float>{dy}, choice, w, rows, capacity, s, turns);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    conv_pool_backward_input_direct_from_half(float* __restrict__ dx, const Half* __restrict__ dy,
                                              const unsigned char* __restrict__ choice, const float* __restrict__ w,
                                              const unsigned* __restrict__ rows, int capacity, ConvShape s,
                                              int turns) {
    const auto store = [=](size_t at, int, float sum) { dx[at] = sum; };
    conv_pool_backward_input_directly(store, StoredGradients<Half>{dy}, choice, w, rows, capacity, s, turns);
}

// conv2d_backward_weight on the gradients of pooled outputs.
template <class T, class Dy>
__device__ __forceinline__ void conv_pool_backward_weight_tile(
    float* dw, const Dy* dy, const unsigned char* choice, const float* x, const unsigned* rows, int capacity,
    const ConvShape& s) {
    const int outputs = active_rows(rows, capacity) * (s.out_h * s.out_w);
    float* split = dw + static_cast<size_t>(blockIdx.y) * s.k * filter_size(s);
    const TileStore<T::VECTOR> store{split, filter_size(s), {s.k}, {}};
    const ChosenGradientsMnMajor<Dy> gradients{dy, choice, s.k};
    gemm<T>(s.k, filter_size(s), s.chunk, store, GemmOperands{gradients, WindowsMnMajor<true>{s, x}, outputs});
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS, RESIDENT_BLOCKS)
    conv_pool_backward_weight_scalar(float* __restrict__ dw, const float* __restrict__ dy,
                                     const unsigned char* __restrict__ choice, const float* __restrict__ x,
                                     const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_backward_weight_tile<Scalar>(dw, dy, choice, x, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Narrow::THREADS)
    conv_pool_backward_weight_narrow(float* __restrict__ dw, const float* __restrict__ dy,
                                     const unsigned char* __restrict__ choice, const float* __restrict__ x,
                                     const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_backward_weight_tile<Narrow>(dw, dy, choice, x, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Square::THREADS)
    conv_pool_backward_weight_square(float* __restrict__ dw, const float* __restrict__ dy,
                                     const unsigned char* __restrict__ choice, const float* __restrict__ x,
                                     const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_backward_weight_tile<Square>(dw, dy, choice, x, rows, capacity, s);
}
// The first layer of a network whose gradients are halves. LeNet5's at a batch of 50: 0.02 GFLOP of chosen outputs; 1.1
// MB.
extern "C" __global__ void __launch_bounds__(Scalar::THREADS, RESIDENT_BLOCKS)
    conv_pool_backward_weight_scalar_half_gradient(float* __restrict__ dw, const Half* __restrict__ dy,
                                                   const unsigned char* __restrict__ choice,
                                                   const float* __restrict__ x, const unsigned* __restrict__ rows,
                                                   int capacity, ConvShape s) {
    conv_pool_backward_weight_tile<Scalar>(dw, dy, choice, x, rows, capacity, s);
}

// The gradient of the bias: as add_bias_backward_bias, where something was chosen.
template <class Dy>
__device__ __forceinline__ void conv_pool_backward_bias_of(const ItemSums& to, const Dy* dy,
                                                           const unsigned char* choice, int items, int k, int chunk) {
    sum_items(to, dy, items, k, chunk, [choice](size_t at) { return choice[at] != NO_CHOICE; });
}

extern "C" __global__ void __launch_bounds__(THREADS)
    conv_pool_backward_bias(float* dbias, float* parts, unsigned* counters, const float* __restrict__ dy,
                            const unsigned char* __restrict__ choice, const unsigned* __restrict__ rows, int capacity,
                            int pixels, int k, int chunk) {
    conv_pool_backward_bias_of({dbias, parts, counters}, dy, choice, active_rows(rows, capacity) * pixels, k, chunk);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    conv_pool_backward_bias_from_half(float* dbias, float* parts, unsigned* counters, const Half* __restrict__ dy,
                                      const unsigned char* __restrict__ choice, const unsigned* __restrict__ rows,
                                      int capacity, int pixels, int k, int chunk) {
    conv_pool_backward_bias_of({dbias, parts, counters}, dy, choice, active_rows(rows, capacity) * pixels, k, chunk);
}

// `conv_pool` on halves, on tensor cores. Sums are not split.
template <class T>
__device__ __forceinline__ void conv_pool_half_tile(
    Half* out, unsigned char* choice, const Half* x, const Half* w, const float* bias, const unsigned* rows,
    int capacity, const ConvShape& s) {
    const int outputs = active_rows(rows, capacity) * (s.out_h * s.out_w);
    const HalfPoolStore<T::VECTOR> pool{out, choice, bias, outputs, s.k};
    gemm_half<T, true>(outputs, s.k, s.chunk, pool,
                       GemmOperands{WindowsKMajor<true, Half>{s, x, outputs}, KMajor{w, s.k, filter_size(s)},
                                    filter_size(s)});
}

extern "C" __global__ void __launch_bounds__(HalfScalar::THREADS, HALF_RESIDENT_BLOCKS)
    conv_pool_half_scalar(Half* __restrict__ out, unsigned char* __restrict__ choice, const Half* __restrict__ x,
                          const Half* __restrict__ w, const float* __restrict__ bias, const unsigned* __restrict__ rows,
                          int capacity, ConvShape s) {
    conv_pool_half_tile<HalfScalar>(out, choice, x, w, bias, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(HalfSmall::THREADS)
    conv_pool_half_small(Half* __restrict__ out, unsigned char* __restrict__ choice, const Half* __restrict__ x,
                         const Half* __restrict__ w, const float* __restrict__ bias, const unsigned* __restrict__ rows,
                         int capacity, ConvShape s) {
    conv_pool_half_tile<HalfSmall>(out, choice, x, w, bias, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(HalfTall::THREADS)
    conv_pool_half_tall(Half* __restrict__ out, unsigned char* __restrict__ choice, const Half* __restrict__ x,
                        const Half* __restrict__ w, const float* __restrict__ bias, const unsigned* __restrict__ rows,
                        int capacity, ConvShape s) {
    conv_pool_half_tile<HalfTall>(out, choice, x, w, bias, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(HalfNarrow::THREADS)
    conv_pool_half_narrow(Half* __restrict__ out, unsigned char* __restrict__ choice, const Half* __restrict__ x,
                          const Half* __restrict__ w, const float* __restrict__ bias, const unsigned* __restrict__ rows,
                          int capacity, ConvShape s) {
    conv_pool_half_tile<HalfNarrow>(out, choice, x, w, bias, rows, capacity, s);
}

// Two layers. LeNet5's at a batch of 50: 0.06 GFLOP in single precision, 1.3 us, and 1.0 GFLOP of halves, 1.3 us at 800
// TFLOP/s; 0.8 MB. As two launches they move 1.6 MB more.
//
// 100 blocks have a multiprocessor of an H100 each. A part with 10 rows of the first layer takes 5,200 clocks for them:
// 14,000 FFMA of a warp and half as many other instructions, four a clock. For the second layer it takes 6,400: 3,200
// HMMA, eight clocks each on one of four tensor cores. In all, and with 1,500 clocks to begin and end, 7.4 us.
extern "C" __global__ void __launch_bounds__(THREADS)
    two_conv_pools_half(Half* __restrict__ out, unsigned char* __restrict__ choice,
                        unsigned char* __restrict__ first_choice, const float* __restrict__ x,
                        const float* __restrict__ w, const float* __restrict__ bias, const Half* __restrict__ second_w,
                        const float* __restrict__ second_bias, const float* __restrict__ adv,
                        const float* __restrict__ ball, const float* __restrict__ t, int unit, int l2, int box,
                        const unsigned* __restrict__ rows, int capacity, int h, int wide, int parts) {
    const PointAlong point{adv, ball, t, unit != 0, l2 != 0, box != 0};
    pool_two_layers(out, choice, first_choice, x, w, bias, second_w, second_bias, point, rows, capacity, h, wide, parts);
}

// Filters are turned, as those of `conv2d_backward_input_half`.
template <class T>
__device__ __forceinline__ void conv_pool_backward_input_half_tile(
    Half* dx, float* parts, const Half* dy, const unsigned char* choice, const Half* w, const unsigned* rows,
    int capacity, const ConvShape& s) {
    const PixelClass pixel_class(s, blockIdx.z);
    const int pixels = active_rows(rows, capacity) * pixel_class.pixels();
    float* split =
        parts == nullptr ? nullptr : parts + static_cast<size_t>(blockIdx.y) * capacity * (s.h * s.w * s.c);
    const HalfTileStore<T::VECTOR, ClassOrder> store{dx, split, s.c, {pixels, s, pixel_class}, {}};
    const GradientsKMajor<true, Half> gradients{s, pixel_class, dy, choice, pixels};
    gemm_half<T, false>(pixels, s.c, s.chunk, store,
                        GemmOperands{gradients, TurnedFiltersKMajor{s, pixel_class, w},
                                     pixel_class.taps_y * pixel_class.taps_x * s.k});
}

extern "C" __global__ void __launch_bounds__(HalfScalar::THREADS, HALF_RESIDENT_BLOCKS)
    conv_pool_backward_input_half_scalar(Half* __restrict__ dx, float* __restrict__ parts, const Half* __restrict__ dy,
                                         const unsigned char* __restrict__ choice, const Half* __restrict__ w,
                                         const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_backward_input_half_tile<HalfScalar>(dx, parts, dy, choice, w, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(HalfSmall::THREADS)
    conv_pool_backward_input_half_small(Half* __restrict__ dx, float* __restrict__ parts, const Half* __restrict__ dy,
                                        const unsigned char* __restrict__ choice, const Half* __restrict__ w,
                                        const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_backward_input_half_tile<HalfSmall>(dx, parts, dy, choice, w, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(HalfTall::THREADS)
    conv_pool_backward_input_half_tall(Half* __restrict__ dx, float* __restrict__ parts, const Half* __restrict__ dy,
                                       const unsigned char* __restrict__ choice, const Half* __restrict__ w,
                                       const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_backward_input_half_tile<HalfTall>(dx, parts, dy, choice, w, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(HalfNarrow::THREADS, HALF_RESIDENT_BLOCKS)
    conv_pool_backward_input_half_narrow(Half* __restrict__ dx, float* __restrict__ parts, const Half* __restrict__ dy,
                                         const unsigned char* __restrict__ choice, const Half* __restrict__ w,
                                         const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_backward_input_half_tile<HalfNarrow>(dx, parts, dy, choice, w, rows, capacity, s);
}

// `conv_pool_backward_weight` on halves, on tensor cores.
template <class T>
__device__ __forceinline__ void conv_pool_backward_weight_half_tile(
    float* dw, const Half* dy, const unsigned char* choice, const Half* x, const unsigned* rows, int capacity,
    const ConvShape& s) {
    const int outputs = active_rows(rows, capacity) * (s.out_h * s.out_w);
    float* split = dw + static_cast<size_t>(blockIdx.y) * s.k * filter_size(s);
    const ChosenGradientsMnMajor<Half> gradients{dy, choice, s.k};
    gemm_half_weight<T>(split, s.k, filter_size(s), s.chunk,
                        GemmOperands{gradients, WindowsMnMajor<true, Half>{s, x}, outputs});
}

extern "C" __global__ void __launch_bounds__(WeightScalar::THREADS, HALF_RESIDENT_BLOCKS)
    conv_pool_backward_weight_half_scalar(float* __restrict__ dw, const Half* __restrict__ dy,
                                          const unsigned char* __restrict__ choice, const Half* __restrict__ x,
                                          const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_backward_weight_half_tile<WeightScalar>(dw, dy, choice, x, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(WeightWide::THREADS)
    conv_pool_backward_weight_half_wide(float* __restrict__ dw, const Half* __restrict__ dy,
                                        const unsigned char* __restrict__ choice, const Half* __restrict__ x,
                                        const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv_pool_backward_weight_half_tile<WeightWide>(dw, dy, choice, x, rows, capacity, s);
}
