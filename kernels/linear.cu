// Linear layers, x [n, in], w [out, in], y [n, out].
//
// At a batch of 50, LeNet5's first (3136 -> 1024) is 0.32 GFLOP and 13 MB of weights: 7 us of arithmetic at 47 TFLOP/s,
// and less of memory if the weights stay in the L2 cache. Its 50 x 1024 results are 32 block tiles, a quarter of the
// GPU: so the sums are split (split-K), and `sum_split_rows` adds the splits; an H200 takes 20 us for both. The second
// (1024 -> 10) has hardly any arithmetic: an H200 takes 5 us, and 1 us for a kernel that does nothing.
//
// Bias, ReLU and ReLU's gradient are applied by the epilogue; `sum_split_rows` applies it if the sums are split. As a
// launch of its own each would read and write 0.4 MB.
#include "gemm_half_weight.cuh"
#include "head.cuh"

template <class T, class X>
__device__ __forceinline__ void linear_tile(
    float* y, const X* x, const float* w, const Epilogue& epilogue, const unsigned* rows, int capacity, int in,
    int out, int chunk) {
    const int n = active_rows(rows, capacity);
    const TileStore<T::VECTOR> store{y + static_cast<size_t>(blockIdx.y) * capacity * out, out, {n}, epilogue};
    gemm<T>(n, out, chunk, store, GemmOperands{KMajor{x, n, in}, KMajor{w, out, in}, in});
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    linear_scalar(float* __restrict__ y, const float* __restrict__ x, const float* __restrict__ w, Epilogue epilogue,
                  const unsigned* __restrict__ rows, int capacity, int in, int out, int chunk) {
    linear_tile<Scalar>(y, x, w, epilogue, rows, capacity, in, out, chunk);
}
extern "C" __global__ void __launch_bounds__(Narrow::THREADS)
    linear_narrow(float* __restrict__ y, const float* __restrict__ x, const float* __restrict__ w, Epilogue epilogue,
                  const unsigned* __restrict__ rows, int capacity, int in, int out, int chunk) {
    linear_tile<Narrow>(y, x, w, epilogue, rows, capacity, in, out, chunk);
}
extern "C" __global__ void __launch_bounds__(Square::THREADS)
    linear_square(float* __restrict__ y, const float* __restrict__ x, const float* __restrict__ w, Epilogue epilogue,
                  const unsigned* __restrict__ rows, int capacity, int in, int out, int chunk) {
    linear_tile<Square>(y, x, w, epilogue, rows, capacity, in, out, chunk);
}
// The last layer of a network in half precision, of more outputs than `linear_warp_from_half` is for. 256 -> 100 at a
// batch of 128: 6.6 MFLOP, 0.14 us; 0.22 MB.
extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    linear_scalar_from_half(float* __restrict__ y, const Half* __restrict__ x, const float* __restrict__ w,
                            Epilogue epilogue, const unsigned* __restrict__ rows, int capacity, int in, int out,
                            int chunk) {
    linear_tile<Scalar>(y, x, w, epilogue, rows, capacity, in, out, chunk);
}

// A warp an output, for layers of few outputs: even ten of them fill a part of the GPU, and no split is left to add.
template <class X>
__device__ __forceinline__ void linear_by_warps(
    float* y, const X* x, const float* w, const Epilogue& epilogue, const unsigned* rows, int capacity, int in,
    int out) {
    const long long at = global_thread() / WARP;
    if (at >= static_cast<long long>(active_rows(rows, capacity)) * out) return;  // a warp as a whole
    const int row = static_cast<int>(at / out), lane = threadIdx.x % WARP;
    const int column = static_cast<int>(at - static_cast<long long>(row) * out);
    x += static_cast<size_t>(row) * in;
    w += static_cast<size_t>(column) * in;
    const float sum = warp_product(x, w, in);
    if (lane == 0) y[at] = apply_epilogue<float>(epilogue, sum, at, column);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    linear_warp(float* __restrict__ y, const float* __restrict__ x, const float* __restrict__ w, Epilogue epilogue,
                const unsigned* __restrict__ rows, int capacity, int in, int out) {
    linear_by_warps(y, x, w, epilogue, rows, capacity, in, out);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    linear_warp_from_half(float* __restrict__ y, const Half* __restrict__ x, const float* __restrict__ w,
                          Epilogue epilogue, const unsigned* __restrict__ rows, int capacity, int in, int out) {
    linear_by_warps(y, x, w, epilogue, rows, capacity, in, out);
}

// dx [n, in] = dy [n, out] w; with `epilogue.y` [n, in], 0 where it is not positive. Dx is the type in memory of both.
template <class T, class Dx>
__device__ __forceinline__ void linear_backward_input_tile(
    Dx* dx, const float* dy, const float* w, const Epilogue& epilogue, const unsigned* rows, int capacity, int in,
    int out, int chunk) {
    const int n = active_rows(rows, capacity);
    const TileStore<T::VECTOR, RowOrder, Dx> store{
        dx + static_cast<size_t>(blockIdx.y) * capacity * in, in, {n}, epilogue};
    gemm<T>(n, in, chunk, store, GemmOperands{KMajor{dy, n, out}, MnMajor{w, in}, out});
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    linear_backward_input_scalar(float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ w,
                                 Epilogue epilogue, const unsigned* __restrict__ rows, int capacity, int in, int out,
                                 int chunk) {
    linear_backward_input_tile<Scalar>(dx, dy, w, epilogue, rows, capacity, in, out, chunk);
}
extern "C" __global__ void __launch_bounds__(Narrow::THREADS)
    linear_backward_input_narrow(float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ w,
                                 Epilogue epilogue, const unsigned* __restrict__ rows, int capacity, int in, int out,
                                 int chunk) {
    linear_backward_input_tile<Narrow>(dx, dy, w, epilogue, rows, capacity, in, out, chunk);
}
extern "C" __global__ void __launch_bounds__(Square::THREADS)
    linear_backward_input_square(float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ w,
                                 Epilogue epilogue, const unsigned* __restrict__ rows, int capacity, int in, int out,
                                 int chunk) {
    linear_backward_input_tile<Square>(dx, dy, w, epilogue, rows, capacity, in, out, chunk);
}
// Behind the last layer of a network in half precision; sums are not split. 1024 <- 10 at a batch of 50: 1.0 MFLOP and
// 0.25 MB, less than a launch.
extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    linear_backward_input_scalar_to_half(Half* __restrict__ dx, const float* __restrict__ dy,
                                         const float* __restrict__ w, Epilogue epilogue,
                                         const unsigned* __restrict__ rows, int capacity, int in, int out, int chunk) {
    linear_backward_input_tile<Scalar>(dx, dy, w, epilogue, rows, capacity, in, out, chunk);
}

// dw [out, in] = dy^T x: 50 terms a sum, and 13 MB to write: 4 us.
template <class T, class X>
__device__ __forceinline__ void linear_backward_weight_tile(
    float* dw, const float* dy, const X* x, const unsigned* rows, int capacity, int in, int out, int chunk) {
    const TileStore<T::VECTOR> store{dw + static_cast<size_t>(blockIdx.y) * out * in, in, {out}, {}};
    gemm<T>(out, in, chunk, store, GemmOperands{MnMajor{dy, out}, MnMajor{x, in}, active_rows(rows, capacity)});
}

extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    linear_backward_weight_scalar(float* __restrict__ dw, const float* __restrict__ dy, const float* __restrict__ x,
                                  const unsigned* __restrict__ rows, int capacity, int in, int out, int chunk) {
    linear_backward_weight_tile<Scalar>(dw, dy, x, rows, capacity, in, out, chunk);
}
extern "C" __global__ void __launch_bounds__(Narrow::THREADS)
    linear_backward_weight_narrow(float* __restrict__ dw, const float* __restrict__ dy, const float* __restrict__ x,
                                  const unsigned* __restrict__ rows, int capacity, int in, int out, int chunk) {
    linear_backward_weight_tile<Narrow>(dw, dy, x, rows, capacity, in, out, chunk);
}
extern "C" __global__ void __launch_bounds__(Square::THREADS)
    linear_backward_weight_square(float* __restrict__ dw, const float* __restrict__ dy, const float* __restrict__ x,
                                  const unsigned* __restrict__ rows, int capacity, int in, int out, int chunk) {
    // Interleaved it takes 107 registers on sm_90a instead of 96: four blocks fit a multiprocessor instead of five.
    linear_backward_weight_tile<SquareRowMajor>(dw, dy, x, rows, capacity, in, out, chunk);
}
// The last layer of a network in half precision. 1024 -> 10 at a batch of 50: 1.0 MFLOP and 0.15 MB, less than a launch.
extern "C" __global__ void __launch_bounds__(Scalar::THREADS)
    linear_backward_weight_scalar_half_activations(float* __restrict__ dw, const float* __restrict__ dy,
                                                   const Half* __restrict__ x, const unsigned* __restrict__ rows,
                                                   int capacity, int in, int out, int chunk) {
    linear_backward_weight_tile<Scalar>(dw, dy, x, rows, capacity, in, out, chunk);
}

// Linear layers on halves, on tensor cores. `parts` takes the sums of splits; null if the sums are not split.
//
// 3136 -> 1024 at a batch of 50: 6.4 MB of weights, which the L2 cache holds from one iteration of an attack to the next.
// 0.32 GFLOP are 0.4 us at 800 TFLOP/s.
template <class T>
__device__ __forceinline__ void linear_half_tile(
    Half* y, float* parts, const Half* x, const Half* w, const Epilogue& epilogue, const unsigned* rows, int capacity,
    int in, int out, int chunk) {
    const int n = active_rows(rows, capacity);
    float* split = parts == nullptr ? nullptr : parts + static_cast<size_t>(blockIdx.y) * capacity * out;
    const HalfTileStore<T::VECTOR> store{y, split, out, {n}, epilogue};
    gemm_half<T, false>(n, out, chunk, store, GemmOperands{KMajor{x, n, in}, KMajor{w, out, in}, in});
}

extern "C" __global__ void __launch_bounds__(HalfScalar::THREADS, HALF_RESIDENT_BLOCKS)
    linear_half_scalar(Half* __restrict__ y, float* __restrict__ parts, const Half* __restrict__ x,
                       const Half* __restrict__ w, Epilogue epilogue, const unsigned* __restrict__ rows, int capacity,
                       int in, int out, int chunk) {
    linear_half_tile<HalfScalar>(y, parts, x, w, epilogue, rows, capacity, in, out, chunk);
}
extern "C" __global__ void __launch_bounds__(HalfSmall::THREADS)
    linear_half_small(Half* __restrict__ y, float* __restrict__ parts, const Half* __restrict__ x,
                      const Half* __restrict__ w, Epilogue epilogue, const unsigned* __restrict__ rows, int capacity,
                      int in, int out, int chunk) {
    linear_half_tile<HalfSmall>(y, parts, x, w, epilogue, rows, capacity, in, out, chunk);
}
extern "C" __global__ void __launch_bounds__(HalfTall::THREADS)
    linear_half_tall(Half* __restrict__ y, float* __restrict__ parts, const Half* __restrict__ x,
                     const Half* __restrict__ w, Epilogue epilogue, const unsigned* __restrict__ rows, int capacity,
                     int in, int out, int chunk) {
    linear_half_tile<HalfTall>(y, parts, x, w, epilogue, rows, capacity, in, out, chunk);
}
extern "C" __global__ void __launch_bounds__(HalfNarrow::THREADS)
    linear_half_narrow(Half* __restrict__ y, float* __restrict__ parts, const Half* __restrict__ x,
                       const Half* __restrict__ w, Epilogue epilogue, const unsigned* __restrict__ rows, int capacity,
                       int in, int out, int chunk) {
    linear_half_tile<HalfNarrow>(y, parts, x, w, epilogue, rows, capacity, in, out, chunk);
}

// The weights are turned: w [in, out], so that they are K-major. So this is a linear layer from `out` to `in`.
extern "C" __global__ void __launch_bounds__(HalfScalar::THREADS, HALF_RESIDENT_BLOCKS)
    linear_backward_input_half_scalar(Half* __restrict__ dx, float* __restrict__ parts, const Half* __restrict__ dy,
                                      const Half* __restrict__ w, Epilogue epilogue, const unsigned* __restrict__ rows,
                                      int capacity, int in, int out, int chunk) {
    linear_half_tile<HalfScalar>(dx, parts, dy, w, epilogue, rows, capacity, out, in, chunk);
}
extern "C" __global__ void __launch_bounds__(HalfSmall::THREADS)
    linear_backward_input_half_small(Half* __restrict__ dx, float* __restrict__ parts, const Half* __restrict__ dy,
                                     const Half* __restrict__ w, Epilogue epilogue, const unsigned* __restrict__ rows,
                                     int capacity, int in, int out, int chunk) {
    linear_half_tile<HalfSmall>(dx, parts, dy, w, epilogue, rows, capacity, out, in, chunk);
}
extern "C" __global__ void __launch_bounds__(HalfTall::THREADS)
    linear_backward_input_half_tall(Half* __restrict__ dx, float* __restrict__ parts, const Half* __restrict__ dy,
                                    const Half* __restrict__ w, Epilogue epilogue, const unsigned* __restrict__ rows,
                                    int capacity, int in, int out, int chunk) {
    linear_half_tile<HalfTall>(dx, parts, dy, w, epilogue, rows, capacity, out, in, chunk);
}
extern "C" __global__ void __launch_bounds__(HalfNarrow::THREADS)
    linear_backward_input_half_narrow(Half* __restrict__ dx, float* __restrict__ parts, const Half* __restrict__ dy,
                                      const Half* __restrict__ w, Epilogue epilogue, const unsigned* __restrict__ rows,
                                      int capacity, int in, int out, int chunk) {
    linear_half_tile<HalfNarrow>(dx, parts, dy, w, epilogue, rows, capacity, out, in, chunk);
}

// `linear_backward_weight` on halves, on tensor cores: 50 terms a sum, and 13 MB to write: 4 us.
template <class T>
__device__ __forceinline__ void linear_backward_weight_half_tile(
    float* dw, const Half* dy, const Half* x, const unsigned* rows, int capacity, int in, int out, int chunk) {
    float* split = dw + static_cast<size_t>(blockIdx.y) * out * in;
    gemm_half_weight<T>(split, out, in, chunk,
                        GemmOperands{MnMajor{dy, out}, MnMajor{x, in}, active_rows(rows, capacity)});
}

extern "C" __global__ void __launch_bounds__(WeightScalar::THREADS, HALF_RESIDENT_BLOCKS)
    linear_backward_weight_half_scalar(float* __restrict__ dw, const Half* __restrict__ dy, const Half* __restrict__ x,
                                       const unsigned* __restrict__ rows, int capacity, int in, int out, int chunk) {
    linear_backward_weight_half_tile<WeightScalar>(dw, dy, x, rows, capacity, in, out, chunk);
}
extern "C" __global__ void __launch_bounds__(WeightWide::THREADS)
    linear_backward_weight_half_wide(float* __restrict__ dw, const Half* __restrict__ dy, const Half* __restrict__ x,
                                     const unsigned* __restrict__ rows, int capacity, int in, int out, int chunk) {
    linear_backward_weight_half_tile<WeightWide>(dw, dy, x, rows, capacity, in, out, chunk);
}
