// Gradients of biases: sums over rows and pixels. Bound by memory: bytes of dy once, at 3 TB/s.
#pragma once

#include "last_block.cuh"
#include "prelude.cuh"
#include "vector.cuh"

// Sum of the numbers that a block's warps hold for each lane, in the order of the warps; in the first warp. Every
// thread of the block calls it; between two calls there is a barrier.
__device__ __forceinline__ float sum_of_warps(float own) {
    constexpr int WARPS = THREADS / WARP;
    SHARED(float, sums, [WARPS][WARP]);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    sums[warp][lane] = own;
    __syncthreads();
    if (warp == 0) {
        for (int other = 1; other < WARPS; ++other) own += sums[other][lane];
    }
    return own;
}

// Operands of a sum: the result [k], and for a sum in several splits scratch memory [splits, k] and counters.
struct ItemSums {
    float* out;
    float* parts;
    unsigned* counters;
};

// The sums over items of dy [items, k], of the elements for which `counts(offset in dy)` is true. A block takes a
// warp's width of channels (along x) and one split of `chunk` items (along y). Each of its warps adds every eighth
// item, and the warps' sums are added in order. The last block of the channels adds the splits in the same way: at most
// 256 of them, 32 KB.
template <class Counts, class Element>
__device__ __forceinline__ void sum_items(const ItemSums& to, const Element* dy, int items, int k, int chunk,
                                          Counts counts) {
    constexpr int WARPS = THREADS / WARP;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, channel = blockIdx.x * WARP + lane;
    const int first = blockIdx.y * chunk, end = min(items, first + chunk), splits = gridDim.y;
    const bool writes = warp == 0 && channel < k;
    float sum = 0.0f;
    if (channel < k) {
        for (int item = first + warp; item < end; item += WARPS) {
            const size_t at = static_cast<size_t>(item) * k + channel;
            const float gradient = read(dy[at]);
            if (counts(at)) sum += gradient;
        }
    }
    sum = sum_of_warps(sum);
    if (splits > 1) {
        if (writes) to.parts[static_cast<size_t>(blockIdx.y) * k + channel] = sum;
        if (!is_last_block(to.counters + blockIdx.x, splits)) return;
        sum = 0.0f;
        if (channel < k) {
            for (int split = warp; split < splits; split += WARPS) {
                sum += to.parts[static_cast<size_t>(split) * k + channel];
            }
        }
        sum = sum_of_warps(sum);
    }
    if (writes) to.out[channel] = sum;
}
