// Convolution alone: forward, gradient by the input, gradient by the weights. Any filter, stride and padding.
//
// Each is a product of matrices (gemm.cuh), and each has the same arithmetic: 2 n out_h out_w k kh kw c operations,
// zeros of the padding among them. LeNet5's second convolution, 32 -> 64 channels, 5 x 5, 14 x 14 pixels, batch 50: 1.0
// GFLOP, 21 us at 47 TFLOP/s; its operands are 4 MB, of no account.
#include "conv.cuh"

// y: a row an output, a column a filter, summed over the filter's elements.
template <class T>
__device__ __forceinline__ void conv2d_tile(
    float* y, const float* x, const float* w, const unsigned* rows, int capacity, const ConvShape& s) {
    const int pixels = s.out_h * s.out_w, outputs = active_rows(rows, capacity) * pixels;
    const Store<T::VECTOR> store{y + static_cast<size_t>(blockIdx.y) * capacity * pixels * s.k, outputs, s.k};
    const Along filters{w, s.k, s.filter()};
    gemm<T>(Windows<false>{s, x, outputs}, filters, outputs, s.k, s.filter(), s.chunk, store);
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    conv2d_scalar(float* __restrict__ y, const float* __restrict__ x, const float* __restrict__ w,
                  const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_tile<Scalar>(y, x, w, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Narrow::THREADS)
    conv2d_narrow(float* __restrict__ y, const float* __restrict__ x, const float* __restrict__ w,
                  const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_tile<Narrow>(y, x, w, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Square::THREADS)
    conv2d_square(float* __restrict__ y, const float* __restrict__ x, const float* __restrict__ w,
                  const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_tile<Square>(y, x, w, rows, capacity, s);
}

// dx: a row a pixel of x, a column a channel, summed over taps and filters. With a stride most taps of a pixel lead to
// no output; they are multiplied as zeros.
template <class T>
__device__ __forceinline__ void conv2d_backward_input_tile(
    float* dx, const float* dy, const float* w, const unsigned* rows, int capacity, const ConvShape& s) {
    const int pixels = s.h * s.w, active = active_rows(rows, capacity) * pixels;
    const Store<T::VECTOR> store{dx + static_cast<size_t>(blockIdx.y) * capacity * pixels * s.c, active, s.c};
    const Gradients<false> gradients{s, dy, nullptr, active};
    gemm<T>(gradients, FiltersAcross{s, w}, active, s.c, s.kh * s.kw * s.k, s.chunk, store);
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS, RESIDENT)
    conv2d_backward_input_scalar(float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ w,
                                 const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_input_tile<Scalar>(dx, dy, w, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Narrow::THREADS)
    conv2d_backward_input_narrow(float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ w,
                                 const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_input_tile<Narrow>(dx, dy, w, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Square::THREADS)
    conv2d_backward_input_square(float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ w,
                                 const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_input_tile<Square>(dx, dy, w, rows, capacity, s);
}

// dw: a row a filter, a column an element of it, summed over the outputs of all active images. Long sums, few results:
// the sums are cut into shares.
template <class T>
__device__ __forceinline__ void conv2d_backward_weight_tile(
    float* dw, const float* dy, const float* x, const unsigned* rows, int capacity, const ConvShape& s) {
    const int outputs = active_rows(rows, capacity) * (s.out_h * s.out_w);
    const Store<T::VECTOR> store{dw + static_cast<size_t>(blockIdx.y) * s.k * s.filter(), s.k, s.filter()};
    gemm<T>(Across{dy, s.k}, WindowsAcross<false>{s, x}, s.k, s.filter(), outputs, s.chunk, store);
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    conv2d_backward_weight_scalar(float* __restrict__ dw, const float* __restrict__ dy, const float* __restrict__ x,
                                  const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_weight_tile<Scalar>(dw, dy, x, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Narrow::THREADS)
    conv2d_backward_weight_narrow(float* __restrict__ dw, const float* __restrict__ dy, const float* __restrict__ x,
                                  const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_weight_tile<Narrow>(dw, dy, x, rows, capacity, s);
}
extern "C" __global__ void __launch_bounds__(Square::THREADS, RESIDENT)
    conv2d_backward_weight_square(float* __restrict__ dw, const float* __restrict__ dy, const float* __restrict__ x,
                                  const unsigned* __restrict__ rows, int capacity, ConvShape s) {
    conv2d_backward_weight_tile<Square>(dw, dy, x, rows, capacity, s);
}
