// Two sums of each of a product's columns, the channels of batch norm in training mode, from the results in registers:
// no launch reads them again. Forward they are the sums of the results and of their squares, which give the statistics;
// backward, of the gradient before ReLU, g, and of g (x - mean), which give the gradients of bias and weight.
//
// A warp adds its rows of a column as floats; forward the distances to the warp's first row, so that no digits are lost
// however far from 0 the mean is. A block adds its warps in double precision and converts the sums to integers. Integers
// are added by atomics: their sum has the same bits in any order. The last block reads the sums, and leaves zeros.
//
// Bounds. A finite half is a multiple of 2^-24 below 2^16. So the sum of up to 2^22 of them, in units of 2^-24, is an
// integer below 2^(16 + 24 + 22) = 2^62. Products of two of them, or of g and x - mean, are below 2^33, and their sum is
// below 2^(33 + 22) = 2^55. Its integers are added apart from its fractions, whose unit is 2^-46: a block's fraction is at
// most 2^46, and 2^16 blocks (of 64 rows and more) add at most 2^62. A block's sum of products is rounded by at most
// 2^-47. So none of the sums overflows: `lower/batch_norm.rs` holds MOST_SUMMED_ITEMS.
#pragma once

#include "batch_norm.cuh"
#include "epilogue.cuh"
#include "last_block.cuh"
#include "vector.cuh"

static_assert(MOST_SUMMED_ITEMS == 1 << 22);
constexpr double SUM_UNITS = 16777216.0;             // 2^24
constexpr double FRACTION_UNITS = 70368744177664.0;  // 2^46

// Sums of a channel over all blocks: two's complement.
struct ChannelSums {
    unsigned long long sum, products, fractions;
    unsigned long long overflows;  // blocks with a number that is infinite or NaN
};
static_assert(sizeof(ChannelSums) == CHANNEL_SUMS_BYTES);

// Sums over some of a channel's items: of numbers, and of products.
struct ChannelMoments {
    double sum, products;
};

__device__ __forceinline__ void add_moments(ChannelSums* to, const ChannelMoments& moments) {
    const double whole = floor(moments.products);
    // NaN compares false.
    if (!(fabs(moments.sum) < 4.0e9 && fabs(whole) < 1.0e15)) {
        atomicAdd(&to->overflows, 1ull);
        return;
    }
    const auto integer = [](double value) {
        return static_cast<unsigned long long>(static_cast<long long>(value));
    };
    atomicAdd(&to->sum, integer(moments.sum * SUM_UNITS));
    atomicAdd(&to->products, integer(whole));
    atomicAdd(&to->fractions, integer((moments.products - whole) * FRACTION_UNITS));
}

// The sums over all blocks, which become 0. Called when all blocks have added theirs.
__device__ __forceinline__ ChannelMoments take_moments(ChannelSums* from) {
    const auto number = [](unsigned long long* integer) {
        return static_cast<double>(static_cast<long long>(atomicExch(integer, 0ull)));
    };
    const double sum = number(&from->sum) / SUM_UNITS;
    const double products = number(&from->products) + number(&from->fractions) / FRACTION_UNITS;
    if (atomicExch(&from->overflows, 0ull) != 0) return {NAN, NAN};
    return {sum, products};
}

// A thread's sums of COLUMNS adjacent columns. Lanes with the same `lane % 4` have the same columns.
template <int COLUMNS>
struct LaneSums {
    float origin[COLUMNS] = {};
    float of[2 * COLUMNS] = {};  // sums of the distances from the origins, then of products

    // Takes the numbers of the warp's first row, which lanes 0 to 3 have, as origins.
    __device__ void start_from(const float (&first)[COLUMNS]) {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) origin[j] = __shfl_sync(FULL_MASK, first[j], threadIdx.x % 4);
    }

    // Adds a number of column j and its square.
    __device__ void add_square(int j, float number) {
        const float distance = number - origin[j];
        add_product(j, distance, distance);
    }

    // Adds a number of column j and its product with another one.
    __device__ void add_product(int j, float number, float factor) {
        of[j] += number;
        of[COLUMNS + j] = fmaf(number, factor, of[COLUMNS + j]);
    }

    // Adds the lanes with the same columns, in the order of a binary tree. In each of its levels a lane passes one half
    // of its sums on and keeps the other, so that it ends with 2 COLUMNS / 8 of them: those from `first_kept` on.
    __device__ void add_lanes() {
        pass_half<COLUMNS, 16>();
        pass_half<COLUMNS / 2, 8>();
        pass_half<COLUMNS / 4, 4>();
    }
    template <int HALF, int LANES>
    __device__ void pass_half() {
        const bool upper = (threadIdx.x & LANES) != 0;
#pragma unroll
        for (int i = 0; i < HALF; ++i) {
            const float kept = upper ? of[HALF + i] : of[i], passed = upper ? of[i] : of[HALF + i];
            of[i] = kept + __shfl_xor_sync(FULL_MASK, passed, LANES);
        }
    }
    static constexpr int KEPT = 2 * COLUMNS / 8;
    __device__ static int first_kept() {
        const int lane = threadIdx.x % WARP;
        return (lane >> 4 & 1) * COLUMNS + (lane >> 3 & 1) * (COLUMNS / 2) + (lane >> 2 & 1) * (COLUMNS / 4);
    }
};

// Sums of a block's warps, one below the other, in shared memory: of each warp the origins of COLUMNS columns, the sums
// of the distances from them, and those of the products.
template <int COLUMNS>
struct WarpSums {
    static constexpr int NUMBERS = 3 * COLUMNS;  // of a warp
    float* numbers;

    // Stores the sums of a warp, whose thread has columns `column` and up.
    template <int N>
    __device__ void store(int warp, int column, const LaneSums<N>& sums) const {
        float* to = numbers + warp * NUMBERS + column;
        const int kept = LaneSums<N>::first_kept();
#pragma unroll
        for (int i = 0; i < LaneSums<N>::KEPT; ++i) to[(1 + kept / N) * COLUMNS + kept % N + i] = sums.of[i];
        if (threadIdx.x % WARP < 4) {
#pragma unroll
            for (int j = 0; j < N; ++j) to[j] = sums.origin[j];
        }
    }

    // Moments of a column over `rows` rows, of which each warp but the last ones has `of_warp`.
    __device__ ChannelMoments moments(int column, int rows, int of_warp) const {
        ChannelMoments all{0.0, 0.0};
        for (int warp = 0; warp * of_warp < rows; ++warp) {
            const float* from = numbers + warp * NUMBERS + column;
            const double count = min(of_warp, rows - warp * of_warp);
            const double origin = from[0], sum = from[COLUMNS], products = from[2 * COLUMNS];
            all.sum += sum + count * origin;
            all.products += products + 2.0 * origin * sum + count * (origin * origin);
        }
        return all;
    }
};

// Adds a block's moments of `column` (each thread has one, or none if it is negative) to those of the others. In the last
// of `blocks` blocks `finish(column, moments)` takes those of all blocks. `last` is an integer in shared memory. Every
// thread of the block calls it.
template <class Finish>
__device__ __forceinline__ void add_blocks(
    unsigned long long* all, unsigned* counter, int column, const ChannelMoments& moments, int blocks, int* last,
    const Finish& finish) {
    ChannelSums* sums = reinterpret_cast<ChannelSums*>(all);
    if (column >= 0) add_moments(sums + column, moments);
    if (is_last_block(counter, blocks, last) && column >= 0) finish(column, take_moments(sums + column));
}

// Sums of COLUMNS results of a thread for the statistics of batch norm.
template <int COLUMNS>
struct StatisticsSums {
    const ChannelStatistics& to;

    struct Factors {};
    __device__ bool are_wanted() const { return to.mean != nullptr; }
    __device__ Factors factors(int) const { return {}; }
    __device__ void start(LaneSums<COLUMNS>& sums, const float (&first)[COLUMNS]) const { sums.start_from(first); }

    __device__ void add(LaneSums<COLUMNS>& sums, const Factors&, const float (&results)[COLUMNS], size_t) const {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) sums.add_square(j, results[j]);
    }

    __device__ void finish(int column, const ChannelMoments& all, int items) const {
        const double count = items, mean = all.sum / count, squares = all.products - mean * all.sum;
        const StatisticsResults results{to.mean, to.variance, to.running_mean, to.running_variance};
        results.set(column, mean, squares < 0.0 ? 0.0 : squares, count);
    }
};

// Sums of COLUMNS results of a thread, gradients with respect to batch norm's results after ReLU, for the gradients of
// its weight and bias.
template <int COLUMNS>
struct GradientSums {
    const NormGradients& to;

    struct Factors {
        float scale[COLUMNS], shift[COLUMNS], mean[COLUMNS];
    };
    __device__ bool are_wanted() const { return to.dweight != nullptr; }
    __device__ Factors factors(int column) const {
        Factors of;
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            of.scale[j] = batch_norm_scale(to.weight[column + j], to.variance[column + j]);
            of.mean[j] = to.mean[column + j];
            of.shift[j] = batch_norm_shift(to.bias[column + j], of.mean[j], of.scale[j]);
        }
        return of;
    }
    __device__ void start(LaneSums<COLUMNS>&, const float (&)[COLUMNS]) const {}

    // `at`: offset of the first result.
    __device__ void add(LaneSums<COLUMNS>& sums, const Factors& of, const float (&results)[COLUMNS], size_t at) const {
        float x[COLUMNS];
        load_vector(x, reinterpret_cast<const Half*>(to.x) + at);
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            const float gradient = relu_gradient(results[j], x[j] * of.scale[j] + of.shift[j]);
            sums.add_product(j, gradient, x[j] - of.mean[j]);
        }
    }

    __device__ void finish(int column, const ChannelMoments& all, int) const {
        to.dweight[column] = static_cast<float>(all.products * batch_norm_inverse(to.variance[column]));
        to.dbias[column] = static_cast<float>(all.sum);
    }
};
