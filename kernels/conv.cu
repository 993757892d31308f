// Convolution: forward, gradient with respect to the input, gradient with respect to the weights. Any filter, stride
// and padding.
//
// Each is a matrix product (gemm.cuh), and each has the same arithmetic: 2 n out_h out_w k kh kw c operations, zeros of
// the padding included. LeNet5's second convolution, 32 -> 64 channels, 5 x 5, 14 x 14 pixels, batch 50: 1.0
// GFLOP, 21 us at 47 TFLOP/s; its operands are 4 MB, 1.3 us.
//
// WideResNet-28-4's large ones, 64 channels, 3 x 3, 32 x 32 pixels, batch 128: 9.7 GFLOP, 206 us. There a tensor is 34
// MB, 11 us to read or to write. The sum with a block's input, and batch norm in evaluation mode with ReLU, would each
// be a pass over memory: 60 us more. So the epilogue applies them to the sums before these are written (epilogue.cuh);
// so it does with their gradients. A block's shortcut, a 1 x 1 convolution, is added within the same sums.
#include "conv_halo.cuh"
#include "gemm_half_weight.cuh"

// y: one row an output, one column a filter, summed over the filter's elements and the shortcut's channels. Y is the
// type in memory of y and of the epilogue's tensors.
template <class T, class Y>
__device__ __forceinline__ void conv2d_tile(
    Y* y, const float* x, const float* w, const Shortcut& shortcut, const Epilogue& epilogue, const unsigned* rows,
    int capacity, const ConvShape& s) {
    const int pixels = s.out_h * s.out_w, outputs = active_rows(rows, capacity) * pixels;
    Y* split = y + static_cast<size_t>(blockIdx.y) * capacity * pixels * s.k;
    const TileStore<T::VECTOR, RowOrder, Y> store{split, s.k, {outputs}, epilogue};
    const int channels = shortcut.shape.channels;
    gemm<T>(outputs, s.k, s.chunk, store,
            GemmOperands{WindowsKMajor<false>{s, x, outputs}, KMajor{w, s.k, filter_size(s)}, filter_size(s)},
            GemmOperands{ShortcutPixelsKMajor<>{s, shortcut, shortcut.x, outputs},
                         KMajor{shortcut.filters, s.k, channels}, channels});
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    conv2d_scalar(float* __restrict__ y, const float* __restrict__ x, const float* __restrict__ w,
                  Shortcut shortcut, Epilogue epilogue, const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_tile<Scalar>(y, x, w, shortcut, epilogue, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Narrow::THREADS)
    conv2d_narrow(float* __restrict__ y, const float* __restrict__ x, const float* __restrict__ w,
                  Shortcut shortcut, Epilogue epilogue, const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_tile<Narrow>(y, x, w, shortcut, epilogue, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Square::THREADS)
    conv2d_square(float* __restrict__ y, const float* __restrict__ x, const float* __restrict__ w,
                  Shortcut shortcut, Epilogue epilogue, const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_tile<Square>(y, x, w, shortcut, epilogue, rows, capacity, s);
}
// The first convolution of a network in half precision; sums are not split. 32 x 32 pixels, 3 -> 16 channels, batch 128,
// with the sum and its normalization as results: 0.11 GFLOP, 2.4 us; 9.9 MB, 3.3 us.
extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    conv2d_scalar_to_half(Half* __restrict__ y, const float* __restrict__ x, const float* __restrict__ w,
                          Shortcut shortcut, Epilogue epilogue, const unsigned* __restrict__ rows, int capacity,
                          ConvShape s) {
    conv2d_tile<Scalar>(y, x, w, shortcut, epilogue, rows, capacity, s);
}

// dx: one row a pixel of x of one class (blocks along z), one column a channel, summed over the class's taps and the
// filters, and over the shortcut's filters. Dy is the type in memory of dy.
template <class T, class Dy>
__device__ __forceinline__ void conv2d_backward_input_tile(
    float* dx, const Dy* dy, const float* w, const Shortcut& shortcut, const Epilogue& epilogue,
    const unsigned* rows, int capacity, const ConvShape& s) {
    const PixelClass pixel_class(s, blockIdx.z);
    const int pixels = active_rows(rows, capacity) * pixel_class.pixels();
    float* split = dx + static_cast<size_t>(blockIdx.y) * capacity * (s.h * s.w * s.c);
    const TileStore<T::VECTOR, ClassOrder> store{split, s.c, {pixels, s, pixel_class}, epilogue};
    const GradientsKMajor<false, Dy> gradients{s, pixel_class, dy, nullptr, pixels};
    const ShortcutGradientsKMajor<> others{pixel_class, shortcut, shortcut.x, pixels};
    gemm<T>(pixels, s.c, s.chunk, store,
            GemmOperands{gradients, FiltersMnMajor{s, pixel_class, w}, pixel_class.taps_y * pixel_class.taps_x * s.k},
            GemmOperands{others, MnMajor{shortcut.filters, s.c}, others.length()});
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS, RESIDENT_BLOCKS)
    conv2d_backward_input_scalar(float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ w,
                                 Shortcut shortcut, Epilogue epilogue, const unsigned* __restrict__ rows, int capacity,
                                 ConvShape s) {
    conv2d_backward_input_tile<Scalar>(dx, dy, w, shortcut, epilogue, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Narrow::THREADS)
    conv2d_backward_input_narrow(float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ w,
                                 Shortcut shortcut, Epilogue epilogue, const unsigned* __restrict__ rows, int capacity,
                                 ConvShape s) {
    conv2d_backward_input_tile<Narrow>(dx, dy, w, shortcut, epilogue, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Square::THREADS)
    conv2d_backward_input_square(float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ w,
                                 Shortcut shortcut, Epilogue epilogue, const unsigned* __restrict__ rows, int capacity,
                                 ConvShape s) {
    conv2d_backward_input_tile<Square>(dx, dy, w, shortcut, epilogue, rows, capacity, s);
}
// The gradient with respect to a network's images, from a half-precision gradient. 16 -> 3 channels, 32 x 32 pixels,
// batch 128: 0.11 GFLOP, 2.4 us; 5.8 MB, 1.9 us.
extern "C" __global__ void __launch_bounds__(Scalar::THREADS, RESIDENT_BLOCKS)
    conv2d_backward_input_scalar_from_half(float* __restrict__ dx, const Half* __restrict__ dy,
                                           const float* __restrict__ w, Shortcut shortcut, Epilogue epilogue,
                                           const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_input_tile<Scalar>(dx, dy, w, shortcut, epilogue, rows, capacity, s);
}

// dw: one row a filter, one column an element of it, summed over the outputs of all active images. The sums are long
// and the results few, so the sums are split (split-K). Dy is the type in memory of dy.
template <class T, class Dy>
__device__ __forceinline__ void conv2d_backward_weight_tile(
    float* dw, const Dy* dy, const float* x, const unsigned* rows, int capacity, const ConvShape& s) {
    const int outputs = active_rows(rows, capacity) * (s.out_h * s.out_w);
    float* split = dw + static_cast<size_t>(blockIdx.y) * s.k * filter_size(s);
    const TileStore<T::VECTOR> store{split, filter_size(s), {s.k}, {}};
    gemm<T>(s.k, filter_size(s), s.chunk, store, GemmOperands{MnMajor{dy, s.k}, WindowsMnMajor<false>{s, x}, outputs});
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    conv2d_backward_weight_scalar(float* __restrict__ dw, const float* __restrict__ dy, const float* __restrict__ x,
                                  const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_weight_tile<Scalar>(dw, dy, x, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Narrow::THREADS)
    conv2d_backward_weight_narrow(float* __restrict__ dw, const float* __restrict__ dy, const float* __restrict__ x,
                                  const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    // Interleaved it takes 113 registers on sm_80 instead of 96: eight blocks fit a multiprocessor instead of ten.
    conv2d_backward_weight_tile<NarrowRowMajor>(dw, dy, x, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Square::THREADS, RESIDENT_BLOCKS)
    conv2d_backward_weight_square(float* __restrict__ dw, const float* __restrict__ dy, const float* __restrict__ x,
                                  const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_weight_tile<Square>(dw, dy, x, rows, capacity, s);
}
// The first convolution of a network whose gradients are halves. 3 -> 16 channels, 32 x 32 pixels, batch 128: 0.11
// GFLOP, 2.4 us; 5.8 MB, 1.9 us.
extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    conv2d_backward_weight_scalar_half_gradient(float* __restrict__ dw, const Half* __restrict__ dy,
                                                const float* __restrict__ x, const unsigned* __restrict__ rows,
                                                int capacity, ConvShape s) {
    conv2d_backward_weight_tile<Scalar>(dw, dy, x, rows, capacity, s);
}

// `conv2d` on halves, on tensor cores. `parts` takes the sums of splits; null if the sums are not split. Statistics are
// those of whole sums.
//
// 64 channels, 3 x 3, 32 x 32 pixels, batch 128: 9.7 GFLOP, 12 us at 800 TFLOP/s; a tensor is 17 MB, 6 us.
template <class T>
__device__ __forceinline__ void conv2d_half_tile(
    Half* y, float* parts, const Half* x, const Half* w, const Shortcut& shortcut, const Epilogue& epilogue,
    const ChannelStatistics& statistics, const unsigned* rows, int capacity, const ConvShape& s) {
    const int pixels = s.out_h * s.out_w, outputs = active_rows(rows, capacity) * pixels;
    float* split = parts == nullptr ? nullptr : parts + static_cast<size_t>(blockIdx.y) * capacity * pixels * s.k;
    using Sums = StatisticsSums<THREAD_COLUMNS>;
    const HalfSummedStore<T::VECTOR, T::COLUMNS, T::WARP_ROWS, Sums> store{
        {y, split, s.k, {outputs}, epilogue}, {statistics}};
    const int channels = shortcut.shape.channels;
    const auto halves = [](const float* operand) { return reinterpret_cast<const Half*>(operand); };
    gemm_half<T, false>(outputs, s.k, s.chunk, store,
                        GemmOperands{WindowsKMajor<false, Half>{s, x, outputs}, KMajor{w, s.k, filter_size(s)},
                                     filter_size(s)},
                        GemmOperands{ShortcutPixelsKMajor<Half>{s, shortcut, halves(shortcut.x), outputs},
                                     KMajor{halves(shortcut.filters), s.k, channels}, channels});
}

extern "C" __global__ void __launch_bounds__(HalfScalar::THREADS, HALF_RESIDENT_BLOCKS)
    conv2d_half_scalar(Half* __restrict__ y, float* __restrict__ parts, const Half* __restrict__ x,
                       const Half* __restrict__ w, Shortcut shortcut, Epilogue epilogue, ChannelStatistics statistics,
                       const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_half_tile<HalfScalar>(y, parts, x, w, shortcut, epilogue, statistics, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(HalfSmall::THREADS)
    conv2d_half_small(Half* __restrict__ y, float* __restrict__ parts, const Half* __restrict__ x,
                      const Half* __restrict__ w, Shortcut shortcut, Epilogue epilogue, ChannelStatistics statistics,
                      const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_half_tile<HalfSmall>(y, parts, x, w, shortcut, epilogue, statistics, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(HalfTall::THREADS)
    conv2d_half_tall(Half* __restrict__ y, float* __restrict__ parts, const Half* __restrict__ x,
                     const Half* __restrict__ w, Shortcut shortcut, Epilogue epilogue, ChannelStatistics statistics,
                     const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_half_tile<HalfTall>(y, parts, x, w, shortcut, epilogue, statistics, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(HalfNarrow::THREADS)
    conv2d_half_narrow(Half* __restrict__ y, float* __restrict__ parts, const Half* __restrict__ x,
                       const Half* __restrict__ w, Shortcut shortcut, Epilogue epilogue, ChannelStatistics statistics,
                       const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_half_tile<HalfNarrow>(y, parts, x, w, shortcut, epilogue, statistics, rows, capacity, s);
}

// Filters are turned: w [c, kh, kw, k] with its taps in reverse order, so that they are K-major, too.
template <class T>
__device__ __forceinline__ void conv2d_backward_input_half_tile(
    Half* dx, float* parts, const Half* dy, const Half* w, const Shortcut& shortcut, const Epilogue& epilogue,
    const unsigned* rows, int capacity, const ConvShape& s) {
    const PixelClass pixel_class(s, blockIdx.z);
    const int pixels = active_rows(rows, capacity) * pixel_class.pixels();
    float* split =
        parts == nullptr ? nullptr : parts + static_cast<size_t>(blockIdx.y) * capacity * (s.h * s.w * s.c);
    const HalfTileStore<T::VECTOR, ClassOrder> store{dx, split, s.c, {pixels, s, pixel_class}, epilogue};
    const auto halves = [](const float* operand) { return reinterpret_cast<const Half*>(operand); };
    const GradientsKMajor<false, Half> gradients{s, pixel_class, dy, nullptr, pixels};
    const ShortcutGradientsKMajor<Half> others{pixel_class, shortcut, halves(shortcut.x), pixels};
    gemm_half<T, false>(
        pixels, s.c, s.chunk, store,
        GemmOperands{gradients, TurnedFiltersKMajor{s, pixel_class, w},
                     pixel_class.taps_y * pixel_class.taps_x * s.k},
        GemmOperands{others, KMajor{halves(shortcut.filters), s.c, shortcut.shape.channels}, others.length()});
}

extern "C" __global__ void __launch_bounds__(HalfScalar::THREADS, HALF_RESIDENT_BLOCKS)
    conv2d_backward_input_half_scalar(Half* __restrict__ dx, float* __restrict__ parts, const Half* __restrict__ dy,
                                      const Half* __restrict__ w, Shortcut shortcut, Epilogue epilogue,
                                      const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_input_half_tile<HalfScalar>(dx, parts, dy, w, shortcut, epilogue, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(HalfSmall::THREADS)
    conv2d_backward_input_half_small(Half* __restrict__ dx, float* __restrict__ parts, const Half* __restrict__ dy,
                                     const Half* __restrict__ w, Shortcut shortcut, Epilogue epilogue,
                                     const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_input_half_tile<HalfSmall>(dx, parts, dy, w, shortcut, epilogue, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(HalfTall::THREADS)
    conv2d_backward_input_half_tall(Half* __restrict__ dx, float* __restrict__ parts, const Half* __restrict__ dy,
                                    const Half* __restrict__ w, Shortcut shortcut, Epilogue epilogue,
                                    const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_input_half_tile<HalfTall>(dx, parts, dy, w, shortcut, epilogue, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(HalfNarrow::THREADS)
    conv2d_backward_input_half_narrow(Half* __restrict__ dx, float* __restrict__ parts, const Half* __restrict__ dy,
                                      const Half* __restrict__ w, Shortcut shortcut, Epilogue epilogue,
                                      const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_input_half_tile<HalfNarrow>(dx, parts, dy, w, shortcut, epilogue, rows, capacity, s);
}

// 3 x 3 convolutions of halves with stride 1 and padding 1 (conv_halo.cuh), with batch norm around them.
using HaloStatistics = StatisticsSums<THREAD_COLUMNS>;
extern "C" __global__ void __launch_bounds__(Halo32::THREADS, 2)
    conv2d_half_halo32(Half* __restrict__ y, const Half* __restrict__ x, const Half* __restrict__ w,
                      Shortcut shortcut, Epilogue epilogue, OperandNorm norm, ChannelStatistics statistics,
                      const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_halo<Halo32>(y, x, w, shortcut, epilogue, norm, HaloStatistics{statistics}, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Halo16::THREADS, 2)
    conv2d_half_halo16(Half* __restrict__ y, const Half* __restrict__ x, const Half* __restrict__ w,
                      Shortcut shortcut, Epilogue epilogue, OperandNorm norm, ChannelStatistics statistics,
                      const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_halo<Halo16>(y, x, w, shortcut, epilogue, norm, HaloStatistics{statistics}, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Halo8::THREADS, 2)
    conv2d_half_halo8(Half* __restrict__ y, const Half* __restrict__ x, const Half* __restrict__ w,
                      Shortcut shortcut, Epilogue epilogue, OperandNorm norm, ChannelStatistics statistics,
                      const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_halo<Halo8>(y, x, w, shortcut, epilogue, norm, HaloStatistics{statistics}, rows, capacity, s);
}

// Gradients with respect to the input, which are convolutions, too: those of dy with the turned filters. With the
// gradients of the weight and bias of the batch norm before the layer.
template <class H>
__device__ __forceinline__ void conv2d_backward_input_halo(
    Half* dx, const Half* dy, const Half* w, const Shortcut& shortcut, const Epilogue& epilogue,
    const NormGradients& gradients, const unsigned* rows, int capacity, const ConvShape& s) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (gradients.dweight != nullptr && active_rows(rows, capacity) == 0 && channel < s.k) {
        gradients.dweight[channel] = gradients.dbias[channel] = 0.0f;
    }
    const GradientSums<THREAD_COLUMNS> sums{gradients};
    conv2d_halo<H>(dx, dy, w, shortcut, epilogue, OperandNorm{}, sums, rows, capacity, s);
}

extern "C" __global__ void __launch_bounds__(Halo32::THREADS, 2)
    conv2d_backward_input_half_halo32(Half* __restrict__ dx, const Half* __restrict__ dy, const Half* __restrict__ w,
                      Shortcut shortcut, Epilogue epilogue, NormGradients gradients,
                      const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_input_halo<Halo32>(dx, dy, w, shortcut, epilogue, gradients, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Halo16::THREADS, 2)
    conv2d_backward_input_half_halo16(Half* __restrict__ dx, const Half* __restrict__ dy, const Half* __restrict__ w,
                      Shortcut shortcut, Epilogue epilogue, NormGradients gradients,
                      const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_input_halo<Halo16>(dx, dy, w, shortcut, epilogue, gradients, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Halo8::THREADS, 2)
    conv2d_backward_input_half_halo8(Half* __restrict__ dx, const Half* __restrict__ dy, const Half* __restrict__ w,
                      Shortcut shortcut, Epilogue epilogue, NormGradients gradients,
                      const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_input_halo<Halo8>(dx, dy, w, shortcut, epilogue, gradients, rows, capacity, s);
}

// `conv2d_backward_weight` on halves, on tensor cores.
//
// 64 channels, 3 x 3, 32 x 32 pixels, batch 128: 9.7 GFLOP, 12 us at 800 TFLOP/s; two tensors of 17 MB, 11 us.
template <class T>
__device__ __forceinline__ void conv2d_backward_weight_half_tile(
    float* dw, const Half* dy, const Half* x, const unsigned* rows, int capacity, const ConvShape& s) {
    const int outputs = active_rows(rows, capacity) * (s.out_h * s.out_w);
    float* split = dw + static_cast<size_t>(blockIdx.y) * s.k * filter_size(s);
    gemm_half_weight<T>(split, s.k, filter_size(s), s.chunk,
                        GemmOperands{MnMajor{dy, s.k}, WindowsMnMajor<false, Half>{s, x}, outputs});
}

extern "C" __global__ void __launch_bounds__(WeightScalar::THREADS, HALF_RESIDENT_BLOCKS)
    conv2d_backward_weight_half_scalar(float* __restrict__ dw, const Half* __restrict__ dy, const Half* __restrict__ x,
                                       const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_weight_half_tile<WeightScalar>(dw, dy, x, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(WeightWide::THREADS)
    conv2d_backward_weight_half_wide(float* __restrict__ dw, const Half* __restrict__ dy, const Half* __restrict__ x,
                                     const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_weight_half_tile<WeightWide>(dw, dy, x, rows, capacity, s);
}
