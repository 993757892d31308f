// Convolution, bias, ReLU and 2 x 2 max-pool in one, and its gradients.
//
// Unpooled outputs never reach memory: the four of a pooling window are neighbours in one thread's part of a tile. Of
// LeNet5's first convolution at a batch of 50 that saves writing and reading 5 MB (3 us); 1.6 MB remain, with 0.06 GFLOP,
// 1.3 us at 47 TFLOP/s. The second's arithmetic is conv.cu's.
#include "conv.cuh"

template <class T>
__device__ __forceinline__ void conv_pool_tile(
    float* out, unsigned char* choice, const float* x, const float* w, const float* bias, const unsigned* rows,
    int capacity, const ConvShape& s) {
    const int outputs = active_rows(rows, capacity) * (s.out_h * s.out_w);
    const Along filters{w, s.k, s.filter()};
    const Pool pool{out, choice, bias, outputs, s.k};
    gemm<T>(Windows<true>{s, x, outputs}, filters, outputs, s.k, s.filter(), s.chunk, pool);
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

// As conv2d_backward_input, with three of four gradients zero. That they are multiplied all the same costs less than
// finding out which they are for each lane of a warp: 32 channels of a pixel would take 400 multiply-adds in place of
// 1600, but some ten instructions each.
template <class T>
__device__ __forceinline__ void conv_pool_backward_input_tile(
    float* dx, const float* dy, const unsigned char* choice, const float* w, const unsigned* rows, int capacity,
    const ConvShape& s) {
    const int pixels = s.h * s.w, active = active_rows(rows, capacity) * pixels;
    const Store<T::VECTOR> store{dx + static_cast<size_t>(blockIdx.y) * capacity * pixels * s.c, active, s.c};
    const Gradients<true> gradients{s, dy, choice, active};
    gemm<T>(gradients, FiltersAcross{s, w}, active, s.c, s.kh * s.kw * s.k, s.chunk, store);
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
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

// As conv2d_backward_weight.
template <class T>
__device__ __forceinline__ void conv_pool_backward_weight_tile(
    float* dw, const float* dy, const unsigned char* choice, const float* x, const unsigned* rows, int capacity,
    const ConvShape& s) {
    const int outputs = active_rows(rows, capacity) * (s.out_h * s.out_w);
    const Store<T::VECTOR> store{dw + static_cast<size_t>(blockIdx.y) * s.k * s.filter(), s.k, s.filter()};
    gemm<T>(ChosenAcross{dy, choice, s.k}, WindowsAcross<true>{s, x}, s.k, s.filter(), outputs, s.chunk, store);
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
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
