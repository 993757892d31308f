// Factors and addends of batch norm's channels, equal to the CPU's to the bit (src/device/cpu/batch_norm.rs), and what
// training mode writes.
#pragma once

#include "prelude.cuh"

// 1 / (standard deviation of a channel).
__device__ __forceinline__ float batch_norm_inverse(float variance) {
    return 1.0f / sqrtf(variance + BATCH_NORM_EPS);
}

// y = x scale + shift
__device__ __forceinline__ float batch_norm_scale(float weight, float variance) {
    return weight / sqrtf(variance + BATCH_NORM_EPS);
}

__device__ __forceinline__ float batch_norm_shift(float bias, float mean, float scale) { return bias - mean * scale; }

__device__ __forceinline__ float moved(float from, float to) {
    return (1.0f - BATCH_NORM_MOMENTUM) * from + BATCH_NORM_MOMENTUM * to;
}

// Results of batch norm's statistics, a number a channel.
struct StatisticsResults {
    float* mean;
    float* variance;
    float* running_mean;
    float* running_variance;

    // Writes a channel's statistics: those of `count` items with a mean and a sum of squared distances from it.
    __device__ __forceinline__ void set(int channel, double exact_mean, double squares, double count) const {
        const float center = static_cast<float>(exact_mean);
        mean[channel] = center;
        variance[channel] = static_cast<float>(squares / count);
        running_mean[channel] = moved(running_mean[channel], center);
        const float unbiased = static_cast<float>(squares / larger(count - 1.0, 1.0));
        running_variance[channel] = moved(running_variance[channel], unbiased);
    }
};
