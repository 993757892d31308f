// What batch norm makes of a channel's numbers: as the CPU does (src/device/cpu/batch_norm.rs), to the bit.
#pragma once

#include "prelude.cuh"

// 1 / the deviation.
__device__ __forceinline__ float batch_norm_inverse(float variance) {
    return 1.0f / sqrtf(variance + BATCH_NORM_EPS);
}

// What a channel is multiplied by, and what is added then.
__device__ __forceinline__ float batch_norm_scale(float weight, float variance) {
    return weight / sqrtf(variance + BATCH_NORM_EPS);
}

__device__ __forceinline__ float batch_norm_shift(float bias, float mean, float scale) { return bias - mean * scale; }
