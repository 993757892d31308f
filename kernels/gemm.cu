// The sum of a product's splits (split-K), in their order.
//
// Bytes of all splits once; they come from the L2 cache, where the product has just written them.
#include "epilogue.cuh"
#include "prelude.cuh"

// out[i] = finish(sum of parts[split][i] over all splits, i), for `active` of `count` elements. A block takes a warp's
// width of elements. Each of its warps adds every eighth split, and the warps' sums are added in order.
template <class Element, class F>
__device__ __forceinline__ void sum_parts(
    Element* out, const float* parts, long long active, long long count, int splits, F finish) {
    constexpr int WARPS = THREADS / WARP;
    SHARED(float, sums, [WARPS][WARP]);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const long long first = static_cast<long long>(blockIdx.x) * WARP, i = first + lane;
    if (first >= active) return;
    float sum = 0.0f;
    if (i < active) {
        for (int split = warp; split < splits; split += WARPS) sum += parts[split * count + i];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && i < active) {
        for (int other = 1; other < WARPS; ++other) sum += sums[other][lane];
        const float result[1] = {finish(sum, i)};
        store_vector(out + i, result);
    }
}

// Splits of a batch's results: `row` elements a row of the batch, `columns` elements a row of the product. Applies the
// epilogue and writes the active rows.
template <class Element>
__device__ __forceinline__ void sum_rows(
    Element* out, const float* parts, const Epilogue& epilogue, const unsigned* rows, int capacity, int row, int columns,
    int splits) {
    const long long active = static_cast<long long>(active_rows(rows, capacity)) * row;
    sum_parts(out, parts, active, static_cast<long long>(capacity) * row, splits, [&](float sum, long long i) {
        return apply_epilogue<Element>(epilogue, sum, i, static_cast<int>(i % columns));
    });
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sum_split_rows(float* __restrict__ out, const float* __restrict__ parts, Epilogue epilogue,
                   const unsigned* __restrict__ rows, int capacity, int row, int columns, int splits) {
    sum_rows(out, parts, epilogue, rows, capacity, row, columns, splits);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_split_rows_half(Half* __restrict__ out, const float* __restrict__ parts, Epilogue epilogue,
                        const unsigned* __restrict__ rows, int capacity, int row, int columns, int splits) {
    sum_rows(out, parts, epilogue, rows, capacity, row, columns, splits);
}

// Splits of the gradient of weights: all results are written.
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_splits(float* __restrict__ out, const float* __restrict__ parts, int count, int splits) {
    sum_parts(out, parts, count, count, splits, [](float sum, long long) { return sum; });
}
