// Standardization of images, and its gradient.
#pragma once

#include "prelude.cuh"

// Lower limit of a standard deviation.
__device__ __forceinline__ float least_deviation(int elements) { return 1.0f / sqrtf(static_cast<float>(elements)); }

__device__ __forceinline__ double product_in_double(float a, float b) {
    return static_cast<double>(a) * static_cast<double>(b);
}

// y = (x - mean) / divisor, of an image that a block works on. The divisor is the deviation, or its lower limit.
struct Standardization {
    float mean, divisor;

    // `sum_of(f)` is the sum of f, in double precision, over the thread's own numbers. Every thread of the block calls
    // it.
    template <typename SumOf>
    __device__ __forceinline__ Standardization(const SumOf& sum_of, int elements) {
        const double center = block_sum(sum_of([](float x) { return static_cast<double>(x); })) / elements;
        const auto square = [=](float x) {
            return (static_cast<double>(x) - center) * (static_cast<double>(x) - center);
        };
        const double variance = block_sum(sum_of(square)) / max(elements - 1, 1);
        const float found = static_cast<float>(sqrt(variance)), least = least_deviation(elements);
        divisor = found < least ? least : found, mean = static_cast<float>(center);
    }

    __device__ __forceinline__ float operator()(float x) const { return (x - mean) / divisor; }
};

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
