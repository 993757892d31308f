// Standardization of images: the lower limit of the deviation, and the gradient.
#pragma once

#include "prelude.cuh"

// Lower limit of a standard deviation.
__device__ __forceinline__ float least_deviation(int elements) { return 1.0f / sqrtf(static_cast<float>(elements)); }

__device__ __forceinline__ double product_in_double(float a, float b) {
    return static_cast<double>(a) * static_cast<double>(b);
}

// dx = (dy - mean(dy) - y sum(dy y) / (elements - 1)) / deviation, of an image that a block works on; the last term
// is 0 if the deviation is its lower limit.
struct StandardizedGradient {
    float mean, along, divisor;

    StandardizedGradient() = default;

    // From the thread's own sums of dy and of dy y. Every thread of the block calls it.
    __device__ __forceinline__ StandardizedGradient(double sum, double products, float deviation, int elements)
        : mean(static_cast<float>(block_sum(sum) / elements)), along(0.0f), divisor(deviation) {
        products = block_sum(products);
        if (divisor > least_deviation(elements)) along = static_cast<float>(products / (elements - 1));
    }

    __device__ __forceinline__ float operator()(float dy, float y) const { return (dy - mean - y * along) / divisor; }
};
