// What becomes of a layer's sums before they are written: bias and ReLU, or ReLU's gradient.
#pragma once

// What is no number passes through: a network that diverged says so.
__device__ __forceinline__ float relu_of(float x) { return x <= 0.0f ? 0.0f : x; }

// At 0 the gradient is 0.
__device__ __forceinline__ float relu_gradient(float dy, float y) { return y > 0.0f ? dy : 0.0f; }

// For the kernels that have whole sums: a product that is not cut into shares, or the one that adds shares. `Finish` in
// src/device/cuda/lower/gemm.rs.
struct Finish {
    const float* bias;  // is added, by columns; null: none
    bool relu;          // is applied
    const float* y;     // of the results' shape: where it is not positive they are 0; null: nowhere

    // `at` is the result's place, `column` its column.
    __device__ __forceinline__ float operator()(float value, size_t at, int column) const {
        if (bias != nullptr) value += bias[column];
        if (relu) value = relu_of(value);
        if (y != nullptr) value = relu_gradient(value, y[at]);
        return value;
    }
};
