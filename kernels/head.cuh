// Parts of a network's head: the mean over pixels, and the last layer by warps.
#pragma once

#include "prelude.cuh"
#include "vector.cuh"

// Mean of a channel over an image's pixels; `from` is its first number, `c` the number of channels.
template <class Element>
__device__ __forceinline__ float mean_of_pixels(const Element* from, int pixels, int c) {
    float sum = 0.0f;
#pragma unroll 16
    for (int pixel = 0; pixel < pixels; ++pixel) sum += read(from[static_cast<size_t>(pixel) * c]);
    return sum / static_cast<float>(pixels);
}

// Product of two vectors of `in` numbers. Every lane of the warp calls it and gets the result.
template <class X>
__device__ __forceinline__ float warp_product(const X* x, const float* w, int in) {
    constexpr int SUMS = 4;  // independent sums, so that loads overlap
    float sums[SUMS] = {};
    for (int k = threadIdx.x % WARP; k < in; k += SUMS * WARP) {
#pragma unroll
        for (int s = 0; s < SUMS; ++s) {
            const int i = k + s * WARP;
            if (i < in) sums[s] = fmaf(read(x[i]), w[i], sums[s]);
        }
    }
    return warp_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}
