// Epilogues: bias and ReLU, a residual sum, batch norm in evaluation mode, or the gradients of these, applied to a
// layer's sums before they are written. The sums must be whole: not split, or added up already.
#pragma once

#include "batch_norm.cuh"
#include "vector.cuh"

// NaN passes through, so that a network that diverged is noticed.
__device__ __forceinline__ float relu_of(float x) { return x <= 0.0f ? 0.0f : x; }

// Gradient of ReLU, 0 at 0.
__device__ __forceinline__ float relu_gradient(float dy, float y) { return y > 0.0f ? dy : 0.0f; }

// Factor and addend of a column's results.
struct EpilogueColumn {
    float scale, shift;
};

// The factor and the addend of column i.
__device__ __forceinline__ EpilogueColumn epilogue_column(const Epilogue& epilogue, int i) {
    EpilogueColumn column{1.0f, 0.0f};
    if (epilogue.weight != nullptr) column.scale = batch_norm_scale(epilogue.weight[i], epilogue.variance[i]);
    if (epilogue.bias != nullptr) {
        const float bias = epilogue.bias[i];
        column.shift = epilogue.mean != nullptr ? batch_norm_shift(bias, epilogue.mean[i], column.scale) : bias;
    }
    return column;
}

// values[i][j] = f(values[i][j], i, j)
template <int ROWS, int VECTOR, class F>
__device__ __forceinline__ void update_each(float (&values)[ROWS][VECTOR], F f) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < VECTOR; ++j) values[i][j] = f(values[i][j], i, j);
    }
}

// The first `rows` rows of `to`, row i from `from + at[i]`.
template <int ROWS, int VECTOR, class Element>
__device__ __forceinline__ void load_rows(
    float (&to)[ROWS][VECTOR], const Element* from, const size_t (&at)[ROWS], int rows) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) load_if(i < rows, to[i], from + at[i]);
}

template <int ROWS, int VECTOR, class Element>
__device__ __forceinline__ void add_rows(
    float (&values)[ROWS][VECTOR], const Element* addend, const size_t (&at)[ROWS], int rows) {
    float others[ROWS][VECTOR];
    load_rows(others, addend, at, rows);
    update_each(values, [&](float value, int i, int j) { return value + others[i][j]; });
}

// Applies the epilogue to ROWS by VECTOR whole sums, of which the first `rows` rows are results. `at` has the offset of
// each row's first result, `columns` the scale and the shift of each column. The tensors of the results' shape have
// elements of the type Element.
template <class Element, int ROWS, int VECTOR>
__device__ __forceinline__ void apply_epilogue(
    const Epilogue& epilogue, float (&values)[ROWS][VECTOR], const size_t (&at)[ROWS], int rows,
    const EpilogueColumn* columns) {
    const auto tensor = [](const float* operand) { return reinterpret_cast<const Element*>(operand); };
    if (epilogue.before != nullptr) add_rows(values, tensor(epilogue.before), at, rows);
    if (epilogue.sum != nullptr) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            if (i < rows) store_vector(reinterpret_cast<Element*>(epilogue.sum) + at[i], values[i]);
        }
    }
    update_each(values, [&](float value, int, int j) {
        if (epilogue.weight != nullptr) value *= columns[j].scale;
        if (epilogue.bias != nullptr) value += columns[j].shift;
        return epilogue.relu != 0 ? relu_of(value) : value;
    });
    if (epilogue.y != nullptr) {
        float outputs[ROWS][VECTOR];
        load_rows(outputs, tensor(epilogue.y), at, rows);
        update_each(values, [&](float value, int i, int j) { return relu_gradient(value, outputs[i][j]); });
    }
    if (epilogue.after != nullptr) add_rows(values, tensor(epilogue.after), at, rows);
}

// Applies the epilogue to one whole sum: the result of column i at offset `at`.
template <class Element>
__device__ __forceinline__ float apply_epilogue(const Epilogue& epilogue, float sum, size_t at, int i) {
    float values[1][1] = {{sum}};
    const size_t offsets[1] = {at};
    const EpilogueColumn column = epilogue_column(epilogue, i);
    apply_epilogue<Element>(epilogue, values, offsets, 1, &column);
    return values[0][0];
}
