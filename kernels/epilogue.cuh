// What becomes of a layer's sums before they are written: bias and ReLU, a residual sum, batch norm in evaluation mode,
// or the gradients of these.
#pragma once

#include "batch_norm.cuh"
#include "vector.cuh"

// What is no number passes through: a network that diverged says so.
__device__ __forceinline__ float relu_of(float x) { return x <= 0.0f ? 0.0f : x; }

// At 0 the gradient is 0.
__device__ __forceinline__ float relu_gradient(float dy, float y) { return y > 0.0f ? dy : 0.0f; }

// What a column's results are multiplied by, and what is added then.
struct EpilogueColumn {
    float scale, shift;
};

// For the kernels that have whole sums: a product that is not cut into shares, or the one that adds shares. What is
// null is left out. `Epilogue` in src/device/cuda/lower/gemm.rs.
struct Epilogue {
    const float* before;    // of the results' shape, as `sum`, `y` and `after`: is added
    float* sum;             // is what the results are then
    const float* weight;    // by columns: they are multiplied by weight / sqrt(variance + eps)
    const float* variance;  // with `weight`
    const float* bias;      // by columns: is added
    const float* mean;      // by columns: times that scale is taken from `bias`
    const float* y;         // where it is not positive the results are 0
    const float* after;     // is added
    int relu;               // is applied before the last two

    __device__ __forceinline__ EpilogueColumn column(int i) const {
        EpilogueColumn column{1.0f, 0.0f};
        if (weight != nullptr) column.scale = batch_norm_scale(weight[i], variance[i]);
        if (bias != nullptr) {
            column.shift = mean != nullptr ? batch_norm_shift(bias[i], mean[i], column.scale) : bias[i];
        }
        return column;
    }

    // ROWS by VECTOR results, of whose rows the first `rows` are some: `at` is the place of each row's first result,
    // `columns` what is known of the columns.
    template <int ROWS, int VECTOR>
    __device__ __forceinline__ void operator()(
        float (&values)[ROWS][VECTOR], const size_t (&at)[ROWS], int rows, const EpilogueColumn* columns) const {
        if (before != nullptr) add(values, before, at, rows);
        if (sum != nullptr) {
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                if (i < rows) store_vector(sum + at[i], values[i]);
            }
        }
        each(values, [&](float value, int, int j) {
            if (weight != nullptr) value *= columns[j].scale;
            if (bias != nullptr) value += columns[j].shift;
            return relu != 0 ? relu_of(value) : value;
        });
        if (y != nullptr) {
            float outputs[ROWS][VECTOR];
            load(outputs, y, at, rows);
            each(values, [&](float value, int i, int j) { return relu_gradient(value, outputs[i][j]); });
        }
        if (after != nullptr) add(values, after, at, rows);
    }

    // One result.
    __device__ __forceinline__ float operator()(float value, size_t place, int i) const {
        float values[1][1] = {{value}};
        const size_t at[1] = {place};
        const EpilogueColumn known = column(i);
        (*this)(values, at, 1, &known);
        return values[0][0];
    }

  private:
    template <int ROWS, int VECTOR, class F>
    __device__ static void each(float (&values)[ROWS][VECTOR], F f) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) values[i][j] = f(values[i][j], i, j);
        }
    }

    template <int ROWS, int VECTOR>
    __device__ static void load(float (&to)[ROWS][VECTOR], const float* from, const size_t (&at)[ROWS], int rows) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) load_if(i < rows, to[i], from + at[i]);
    }

    template <int ROWS, int VECTOR>
    __device__ static void add(
        float (&values)[ROWS][VECTOR], const float* addend, const size_t (&at)[ROWS], int rows) {
        float others[ROWS][VECTOR];
        load(others, addend, at, rows);
        each(values, [&](float value, int i, int j) { return value + others[i][j]; });
    }
};
