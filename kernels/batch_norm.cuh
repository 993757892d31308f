// Factors and addends of batch norm's channels, equal to the CPU's to the bit (src/device/cpu/batch_norm.rs).
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
