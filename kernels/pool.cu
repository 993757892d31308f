// 2 x 2 max-pooling alone, and the gradients of biases.
//
// All are bound by memory: bytes of each operand once, at 3 TB/s.
#include "prelude.cuh"

constexpr unsigned char NO_CHOICE = 4;

// An output's window: where its first element is in x, from output `at` of images of `columns` by `c` outputs a row.
__device__ __forceinline__ long long window(long long at, int columns, int c) {
    const long long cell = at / c, channel = at - cell * c, y = cell / columns, x = cell - y * columns;
    return (4 * y * columns + 2 * x) * c + channel;  // rows of all images follow one another; two of 2 columns each
}

// out, choice [n, h/2, w/2, c] from x [n, h, w, c]; `row` is the outputs of an image, `columns` w/2. The first of equal
// ones is chosen.
extern "C" __global__ void __launch_bounds__(THREADS)
    max_pool2d(float* __restrict__ out, unsigned char* __restrict__ choice, const float* __restrict__ x,
               const unsigned* __restrict__ rows, int capacity, int row, int columns, int c) {
    const long long at = global_thread();
    if (at >= static_cast<long long>(active_rows(rows, capacity)) * row) return;
    const float* upper = x + window(at, columns, c);
    const float* lower = upper + 2 * static_cast<long long>(columns) * c;
    const float values[4] = {upper[0], upper[c], lower[0], lower[c]};
    float most = values[0];
    int place = 0;
    for (int i = 1; i < 4; ++i) {
        const bool more = values[i] > most;
        most = more ? values[i] : most;
        place = more ? i : place;
    }
    out[at] = most;
    choice[at] = static_cast<unsigned char>(place);
}

// dx [n, h, w, c] from dy, choice [n, h/2, w/2, c]: a thread writes the four of a window.
extern "C" __global__ void __launch_bounds__(THREADS)
    max_pool2d_backward(float* __restrict__ dx, const float* __restrict__ dy, const unsigned char* __restrict__ choice,
                        const unsigned* __restrict__ rows, int capacity, int row, int columns, int c) {
    const long long at = global_thread();
    if (at >= static_cast<long long>(active_rows(rows, capacity)) * row) return;
    float* upper = dx + window(at, columns, c);
    float* lower = upper + 2 * static_cast<long long>(columns) * c;
    const float gradient = dy[at];
    const int place = choice[at];
    upper[0] = place == 0 ? gradient : 0.0f;
    upper[c] = place == 1 ? gradient : 0.0f;
    lower[0] = place == 2 ? gradient : 0.0f;
    lower[c] = place == 3 ? gradient : 0.0f;
}

// A share of dbias [k]: the sums of items first to first + chunk of dy [items, k], each where `counts(place in dy)`. A
// block takes a warp's width of channels (along x) and one share (along y); each of its warps adds every eighth item,
// and the warps' sums are added in order. gemm.cu's `sum_splits` adds the shares.
template <class Counts>
__device__ __forceinline__ void sum_items(float* parts, const float* dy, int items, int k, int chunk, Counts counts) {
    constexpr int WARPS = THREADS / WARP;
    SHARED(float, sums, [WARPS][WARP]);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, channel = blockIdx.x * WARP + lane;
    const int first = blockIdx.y * chunk, end = min(items, first + chunk);
    float sum = 0.0f;
    if (channel < k) {
        for (int item = first + warp; item < end; item += WARPS) {
            const size_t at = static_cast<size_t>(item) * k + channel;
            const float gradient = dy[at];
            if (counts(at)) sum += gradient;
        }
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && channel < k) {
        for (int other = 1; other < WARPS; ++other) sum += sums[other][lane];
        parts[static_cast<size_t>(blockIdx.y) * k + channel] = sum;
    }
}

// `pixels` items a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    add_bias_backward_bias(float* __restrict__ parts, const float* __restrict__ dy, const unsigned* __restrict__ rows,
                           int capacity, int pixels, int k, int chunk) {
    const int items = active_rows(rows, capacity) * pixels;
    sum_items(parts, dy, items, k, chunk, [](size_t) { return true; });
}

// The same where something was chosen.
extern "C" __global__ void __launch_bounds__(THREADS)
    conv_pool_backward_bias(float* __restrict__ parts, const float* __restrict__ dy,
                            const unsigned char* __restrict__ choice, const unsigned* __restrict__ rows, int capacity,
                            int pixels, int k, int chunk) {
    const int items = active_rows(rows, capacity) * pixels;
    sum_items(parts, dy, items, k, chunk, [choice](size_t at) { return choice[at] != NO_CHOICE; });
}
