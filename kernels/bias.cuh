// Gradients of biases: sums over rows and pixels. Bound by memory: bytes of dy once, at 3 TB/s.
#pragma once

#include "prelude.cuh"
#include "vector.cuh"

// One split of dbias [k]: the sums over `chunk` items of dy [items, k], of the elements for which `counts(offset in
// dy)` is true. A block takes a warp's width of channels (along x) and one split (along y). Each of its warps adds
// every eighth item, and the warps' sums are added in order. gemm.cu's `sum_splits` adds the splits.
template <class Counts, class Element>
__device__ __forceinline__ void sum_items(float* parts, const Element* dy, int items, int k, int chunk, Counts counts) {
    constexpr int WARPS = THREADS / WARP;
    SHARED(float, sums, [WARPS][WARP]);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, channel = blockIdx.x * WARP + lane;
    const int first = blockIdx.y * chunk, end = min(items, first + chunk);
    float sum = 0.0f;
    if (channel < k) {
        for (int item = first + warp; item < end; item += WARPS) {
            const size_t at = static_cast<size_t>(item) * k + channel;
            const float gradient = read(dy[at]);
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
