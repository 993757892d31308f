// Elementwise ops. `capacity` is the number of rows that a buffer holds, `row` the number of elements of a row.
//
// A thread takes one element. In the kernels whose name ends in _x4 it takes a vector of four, read and written at
// once, and `row` counts vectors; they need rows of a multiple of four elements and addresses that are multiples of 16
// bytes. So in _x8 it takes a vector of eight, which are halves.
//
// All are bound by memory: the bytes are those of the operands, the FLOPs at most one an element. For the activations
// of LeNet5's first convolution at batch 50 (50 x 28 x 28 x 32 numbers, 5.0 MB) a kernel of one operand moves 10.0 MB:
// its floor at 3.0 TB/s is 3.3 us; a kernel of two operands moves 15.1 MB, 5.0 us. Kernels on halves move half as many
// bytes, and their floor is half as high.
#include "bias.cuh"
#include "epilogue.cuh"
#include "prelude.cuh"
#include "vector.cuh"

// out = f(in...) for the active rows. In memory M is a float, a half or a vector.
template <typename M, typename F, typename... In>
__device__ __forceinline__ void map(F f, const unsigned* rows, int capacity, int row, M* out, const In*... in) {
    const long long i = global_thread();
    if (i < static_cast<long long>(active_rows(rows, capacity)) * row) write(out[i], each(f, read(in[i])...));
}

// --- copies and conversions ---

// 4 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS)
    fill(float* __restrict__ out, float value, const unsigned* rows, int capacity, int row) {
    const long long i = global_thread();
    if (i < static_cast<long long>(active_rows(rows, capacity)) * row) out[i] = value;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    fill_x4(float4* __restrict__ out, float value, const unsigned* rows, int capacity, int row) {
    const long long i = global_thread();
    const float4 four = make_float4(value, value, value, value);
    if (i < static_cast<long long>(active_rows(rows, capacity)) * row) out[i] = four;
}

// 8 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS)
    copy(float* __restrict__ out, const float* __restrict__ a, const unsigned* rows, int capacity, int row) {
    map([](float a) { return a; }, rows, capacity, row, out, a);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    copy_x4(float4* __restrict__ out, const float4* __restrict__ a, const unsigned* rows, int capacity, int row) {
    map([](float a) { return a; }, rows, capacity, row, out, a);
}

// 5 bytes an element. A batch of 50 images of 28 x 28: 0.2 MB, 0.07 us.
extern "C" __global__ void __launch_bounds__(THREADS)
    bytes_to_unit(float* __restrict__ out, const unsigned char* __restrict__ bytes, const unsigned* rows, int capacity,
                  int row) {
    const long long i = global_thread();
    if (i < static_cast<long long>(active_rows(rows, capacity)) * row) out[i] = byte_to_unit(bytes[i]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    bytes_to_unit_x4(float4* __restrict__ out, const uchar4* __restrict__ bytes, const unsigned* rows, int capacity,
                     int row) {
    const long long i = global_thread();
    if (i >= static_cast<long long>(active_rows(rows, capacity)) * row) return;
    out[i] = byte_to_unit(bytes[i]);
}

// --- arithmetic ---

// 12 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS)
    add(float* __restrict__ out, const float* __restrict__ a, const float* __restrict__ b, const unsigned* rows,
        int capacity, int row) {
    map([](float a, float b) { return a + b; }, rows, capacity, row, out, a, b);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add_x4(float4* __restrict__ out, const float4* __restrict__ a, const float4* __restrict__ b, const unsigned* rows,
           int capacity, int row) {
    map([](float a, float b) { return a + b; }, rows, capacity, row, out, a, b);
}

// 6 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS)
    add_half(Half* __restrict__ out, const Half* __restrict__ a, const Half* __restrict__ b, const unsigned* rows,
             int capacity, int row) {
    map([](float a, float b) { return a + b; }, rows, capacity, row, out, a, b);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add_half_x8(Half8* __restrict__ out, const Half8* __restrict__ a, const Half8* __restrict__ b, const unsigned* rows,
                int capacity, int row) {
    map([](float a, float b) { return a + b; }, rows, capacity, row, out, a, b);
}

// 8 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS)
    scale(float* __restrict__ out, const float* __restrict__ a, float factor, const unsigned* rows, int capacity,
          int row) {
    map([=](float a) { return factor * a; }, rows, capacity, row, out, a);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    scale_x4(float4* __restrict__ out, const float4* __restrict__ a, float factor, const unsigned* rows, int capacity,
             int row) {
    map([=](float a) { return factor * a; }, rows, capacity, row, out, a);
}

// 8 bytes an element. NaN becomes the least value, and so does -0 if that is 0.
extern "C" __global__ void __launch_bounds__(THREADS)
    clamp_min(float* __restrict__ out, const float* __restrict__ a, float least, const unsigned* rows, int capacity,
              int row) {
    map([=](float a) { return larger(a, least); }, rows, capacity, row, out, a);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    clamp_min_x4(float4* __restrict__ out, const float4* __restrict__ a, float least, const unsigned* rows,
                 int capacity, int row) {
    map([=](float a) { return larger(a, least); }, rows, capacity, row, out, a);
}

// --- layers ---

// x plus a bias of `k` elements, which stays in a cache. In memory M is a float, a half or a vector; V is the same of
// floats, and `k` counts vectors, too.
template <typename M, typename V>
__device__ __forceinline__ void add_bias_of(M* out, const M* x, const V* bias, const unsigned* rows, int capacity,
                                            int row, int k) {
    const long long i = global_thread();
    if (i >= static_cast<long long>(active_rows(rows, capacity)) * row) return;
    write(out[i], each([](float x, float b) { return x + b; }, read(x[i]), bias[i % k]));
}

// 8 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS)
    add_bias(float* __restrict__ out, const float* __restrict__ x, const float* __restrict__ bias, const unsigned* rows,
             int capacity, int row, int k) {
    add_bias_of(out, x, bias, rows, capacity, row, k);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add_bias_x4(float4* __restrict__ out, const float4* __restrict__ x, const float4* __restrict__ bias,
                const unsigned* rows, int capacity, int row, int k) {
    add_bias_of(out, x, bias, rows, capacity, row, k);
}

// 4 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS)
    add_bias_half(Half* __restrict__ out, const Half* __restrict__ x, const float* __restrict__ bias,
                  const unsigned* rows, int capacity, int row, int k) {
    add_bias_of(out, x, bias, rows, capacity, row, k);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add_bias_half_x8(Half8* __restrict__ out, const Half8* __restrict__ x, const Float8* __restrict__ bias,
                     const unsigned* rows, int capacity, int row, int k) {
    add_bias_of(out, x, bias, rows, capacity, row, k);
}

// 8 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS)
    relu(float* __restrict__ out, const float* __restrict__ x, const unsigned* rows, int capacity, int row) {
    map([](float x) { return relu_of(x); }, rows, capacity, row, out, x);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    relu_x4(float4* __restrict__ out, const float4* __restrict__ x, const unsigned* rows, int capacity, int row) {
    map([](float x) { return relu_of(x); }, rows, capacity, row, out, x);
}

// 4 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS)
    relu_half(Half* __restrict__ out, const Half* __restrict__ x, const unsigned* rows, int capacity, int row) {
    map([](float x) { return relu_of(x); }, rows, capacity, row, out, x);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    relu_half_x8(Half8* __restrict__ out, const Half8* __restrict__ x, const unsigned* rows, int capacity, int row) {
    map([](float x) { return relu_of(x); }, rows, capacity, row, out, x);
}

// 12 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS)
    relu_backward(float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ y,
                  const unsigned* rows, int capacity, int row) {
    map([](float dy, float y) { return relu_gradient(dy, y); }, rows, capacity, row, dx, dy, y);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    relu_backward_x4(float4* __restrict__ dx, const float4* __restrict__ dy, const float4* __restrict__ y,
                     const unsigned* rows, int capacity, int row) {
    map([](float dy, float y) { return relu_gradient(dy, y); }, rows, capacity, row, dx, dy, y);
}

// 6 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS)
    relu_backward_half(Half* __restrict__ dx, const Half* __restrict__ dy, const Half* __restrict__ y,
                       const unsigned* rows, int capacity, int row) {
    map([](float dy, float y) { return relu_gradient(dy, y); }, rows, capacity, row, dx, dy, y);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    relu_backward_half_x8(Half8* __restrict__ dx, const Half8* __restrict__ dy, const Half8* __restrict__ y,
                          const unsigned* rows, int capacity, int row) {
    map([](float dy, float y) { return relu_gradient(dy, y); }, rows, capacity, row, dx, dy, y);
}

// The gradient of a bias: `pixels` items a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    add_bias_backward_bias(float* dbias, float* parts, unsigned* counters, const float* __restrict__ dy,
                           const unsigned* __restrict__ rows, int capacity, int pixels, int k, int chunk) {
    sum_items({dbias, parts, counters}, dy, active_rows(rows, capacity) * pixels, k, chunk,
              [](size_t) { return true; });
}
extern "C" __global__ void __launch_bounds__(THREADS)
    add_bias_backward_bias_from_half(float* dbias, float* parts, unsigned* counters, const Half* __restrict__ dy,
                           const unsigned* __restrict__ rows, int capacity, int pixels, int k, int chunk) {
    sum_items({dbias, parts, counters}, dy, active_rows(rows, capacity) * pixels, k, chunk,
              [](size_t) { return true; });
}
