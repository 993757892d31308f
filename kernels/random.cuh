// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), with the bits of src/rng.rs.
#pragma once

#include "prelude.cuh"

// Four random words for a counter of four words and a key of two.
__device__ __forceinline__ uint4 philox4x32_10(uint4 counter, uint2 key) {
    for (int round = 0; round < PHILOX_ROUNDS; ++round) {
        if (round > 0) key = make_uint2(key.x + PHILOX_WEYL_0, key.y + PHILOX_WEYL_1);
        const unsigned a_low = counter.x * PHILOX_MULTIPLIER_0, a_high = __umulhi(counter.x, PHILOX_MULTIPLIER_0);
        const unsigned b_low = counter.z * PHILOX_MULTIPLIER_1, b_high = __umulhi(counter.z, PHILOX_MULTIPLIER_1);
        counter = make_uint4(b_high ^ counter.y ^ key.x, b_low, a_high ^ counter.w ^ key.y, a_low);
    }
    return counter;
}

// The upper 24 bits as a number in [0, 1), or in [-1, 1); exact in single precision.
__device__ __forceinline__ float unit(unsigned word) { return static_cast<float>(word >> 8) * (1.0f / 16777216.0f); }
__device__ __forceinline__ float signed_unit(unsigned word) {
    return static_cast<float>(word >> 8) * (1.0f / 8388608.0f) - 1.0f;
}

// Numbers 4 block .. 4 block + 3 of an example, the bits of `philox` in src/rng.rs.
__device__ __forceinline__ float4 noise_of(unsigned block, unsigned example, unsigned step, unsigned purpose,
                                           unsigned seed_low, unsigned seed_high, bool is_signed) {
    const uint4 words =
        philox4x32_10(make_uint4(block, example, step, purpose), make_uint2(seed_low, seed_high));
    const auto number = [=](unsigned word) { return is_signed ? signed_unit(word) : unit(word); };
    return make_float4(number(words.x), number(words.y), number(words.z), number(words.w));
}

// Writes them to an example of `width` numbers, which may end before the fourth.
__device__ __forceinline__ void write_noise(float* example, int block, int width, float4 numbers) {
    float* to = example + 4 * static_cast<long long>(block);
    const int left = width - 4 * block;
    to[0] = numbers.x;
    if (left > 1) to[1] = numbers.y;
    if (left > 2) to[2] = numbers.z;
    if (left > 3) to[3] = numbers.w;
}
