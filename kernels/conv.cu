// Convolution alone: forward, gradient by the input, gradient by the weights. Any filter, stride and padding.
//
// Each is a product of matrices (gemm.cuh), and each has the same arithmetic: 2 n out_h out_w k kh kw c operations,
// zeros of the padding among them. LeNet5's second convolution, 32 -> 64 channels, 5 x 5, 14 x 14 pixels, batch 50: 1.0
// GFLOP, 21 us at 47 TFLOP/s; its operands are 4 MB, of no account.
//
// WideResNet-28-4's large ones, 64 channels, 3 x 3, 32 x 32 pixels, batch 128: 9.7 GFLOP, 206 us. There a tensor is 34
// MB, 11 us to read or to write: the sum with a block's input, and batch norm in evaluation mode with ReLU, each a pass
// over memory, would take 60 us more. So they are applied to whole sums on their way to memory (epilogue.cuh), as are
// their gradients; and a block's shortcut, a 1 x 1 convolution, is a part of the same sums.
#include "conv.cuh"

// y: a row an output, a column a filter, summed over the filter's elements and the shortcut's channels.
template <class T>
__device__ __forceinline__ void conv2d_tile(
    float* y, const float* x, const float* w, const Shortcut& shortcut, const Epilogue& epilogue, const unsigned* rows,
    int capacity, const ConvShape& s) {
    const int pixels = s.out_h * s.out_w, outputs = active_rows(rows, capacity) * pixels;
    float* share = y + static_cast<size_t>(blockIdx.y) * capacity * pixels * s.k;
    const Store<T::VECTOR> store{share, s.k, {outputs}, epilogue};
    const int channels = shortcut.shape.channels;
    gemm<T>(outputs, s.k, s.chunk, store,
            Product{Windows<false>{s, x, outputs}, Along{w, s.k, filter_size(s)}, filter_size(s)},
            Product{ShortcutPixels{s, shortcut, shortcut.x, outputs}, Along{shortcut.filters, s.k, channels},
                    channels});
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

// dx: a row a pixel of x of one class (along z), a column a channel, summed over the class's taps and the filters, and
// over the shortcut's filters.
template <class T>
__device__ __forceinline__ void conv2d_backward_input_tile(
    float* dx, const float* dy, const float* w, const Shortcut& shortcut, const Epilogue& epilogue, const unsigned* rows,
    int capacity, const ConvShape& s) {
    const PixelClass of(s, blockIdx.z);
    const int pixels = active_rows(rows, capacity) * of.pixels();
    float* share = dx + static_cast<size_t>(blockIdx.y) * capacity * (s.h * s.w * s.c);
    const Store<T::VECTOR, InClass> store{share, s.c, {pixels, s, of}, epilogue};
    const Gradients<false> gradients{s, of, dy, nullptr, pixels};
    const ShortcutGradients others{of, shortcut, shortcut.x, pixels};
    gemm<T>(pixels, s.c, s.chunk, store,
            Product{gradients, FiltersAcross{s, of, w}, of.taps_y * of.taps_x * s.k},
            Product{others, Across{shortcut.filters, s.c}, others.length()});
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS, RESIDENT)
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

// dw: a row a filter, a column an element of it, summed over the outputs of all active images. Long sums, few results:
// the sums are cut into shares.
template <class T>
__device__ __forceinline__ void conv2d_backward_weight_tile(
    float* dw, const float* dy, const float* x, const unsigned* rows, int capacity, const ConvShape& s) {
    const int outputs = active_rows(rows, capacity) * (s.out_h * s.out_w);
    const Store<T::VECTOR> store{dw + static_cast<size_t>(blockIdx.y) * s.k * filter_size(s), filter_size(s), {s.k}, {}};
    gemm<T>(s.k, filter_size(s), s.chunk, store, Product{Across{dy, s.k}, WindowsAcross<false>{s, x}, outputs});
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    conv2d_backward_weight_scalar(float* __restrict__ dw, const float* __restrict__ dy, const float* __restrict__ x,
                                  const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_weight_tile<Scalar>(dw, dy, x, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Narrow::THREADS)
    conv2d_backward_weight_narrow(float* __restrict__ dw, const float* __restrict__ dy, const float* __restrict__ x,
                                  const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    // Interleaved it has 113 registers on sm_80 and not 96: eight blocks share a multiprocessor and not ten.
    conv2d_backward_weight_tile<NarrowRowMajor>(dw, dy, x, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Square::THREADS, RESIDENT)
    conv2d_backward_weight_square(float* __restrict__ dw, const float* __restrict__ dy, const float* __restrict__ x,
                                  const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_weight_tile<Square>(dw, dy, x, rows, capacity, s);
}
