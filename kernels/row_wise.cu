// Small ops on the rows of a batch, computed by one launch: a block a row does all steps in their order.
//
// A launch in a graph takes two microseconds, and most of these ops have less work than that: alone, each is as long as
// its launch. A step is what its kernel does to one row, with the same arithmetic; src/device/cuda/lower/row_wise.rs
// makes the steps of those kernels' arguments. No block reads what another one writes (src/tape/fuse_row_wise.rs), and
// threads of a block wait for each other where a step reads what an earlier step wrote.
//
// Bytes and FLOPs are those of the steps. The largest op of a step of training gathers 128 images of 32 x 32 x 3: 3.2
// MB, 1.0 us at 3.0 TB/s.
#include "head.cuh"
#include "loss.cuh"
#include "pgd.cuh"
#include "random.cuh"

namespace {

// A step of a block's row.
struct RowStep {
    const RowWiseOperands& operands;
    const RowWiseStepCode& code;
    int row;
    int rows;  // number of active rows

    // Operand number `place` of the step.
    template <typename T>
    __device__ __forceinline__ T* whole(int place) const {
        return reinterpret_cast<T*>(operands.of[code.operand[place]]);
    }

    // This row of an operand whose rows have `width` elements.
    template <typename T>
    __device__ __forceinline__ T* own(int place, int width) const {
        return whole<T>(place) + static_cast<long long>(row) * width;
    }

    // The number of this row in an operand that has one a row.
    template <typename T = float>
    __device__ __forceinline__ T& one(int place) const {
        return *own<T>(place, 1);
    }

    __device__ __forceinline__ unsigned word(int place) const { return code.number[place]; }
    __device__ __forceinline__ int size(int place) const { return static_cast<int>(word(place)); }
    __device__ __forceinline__ float number(int place) const { return __uint_as_float(word(place)); }
};

// Calls f(i) for the elements of a row, each by one thread.
template <typename F>
__device__ __forceinline__ void for_row(int width, F f) {
    for (int i = static_cast<int>(threadIdx.x); i < width; i += THREADS) f(i);
}

// out = f(in), by elements or vectors of type V. The width is number `width` of the step.
template <typename V, typename F>
__device__ __forceinline__ void map_row(const RowStep& step, int width, F f) {
    const int n = step.size(width);
    V* out = step.own<V>(0, n);
    const V* in = step.own<V>(1, n);
    for_row(n, [&](int i) { out[i] = each(f, in[i]); });
}

__device__ __forceinline__ void splat(float& to, float value) { to = value; }
__device__ __forceinline__ void splat(float4& to, float value) { to = make_float4(value, value, value, value); }

template <typename V>
__device__ __forceinline__ void fill_row(const RowStep& step) {
    V* out = step.own<V>(0, step.size(1));
    for_row(step.size(1), [&](int i) { splat(out[i], step.number(0)); });
}

template <typename V, typename Bytes>
__device__ __forceinline__ void bytes_to_unit_row(const RowStep& step) {
    const int n = step.size(0);
    V* out = step.own<V>(0, n);
    const Bytes* in = step.own<Bytes>(1, n);
    for_row(n, [&](int i) { out[i] = byte_to_unit(in[i]); });
}

// out[row] = src[index[row]]
template <typename Unit>
__device__ __forceinline__ void gather_row(const RowStep& step) {
    const int n = step.size(0);
    Unit* out = step.own<Unit>(0, n);
    const Unit* src = step.whole<Unit>(1) + static_cast<long long>(step.one<unsigned>(2)) * n;
    for_row(n, [&](int i) { out[i] = src[i]; });
}

// dst[index[row]] = src[row]
template <typename Unit>
__device__ __forceinline__ void scatter_row(const RowStep& step) {
    const int n = step.size(0);
    Unit* dst = step.whole<Unit>(0) + static_cast<long long>(step.one<unsigned>(2)) * n;
    const Unit* src = step.own<Unit>(1, n);
    for_row(n, [&](int i) { dst[i] = src[i]; });
}

template <class Element>
__device__ __forceinline__ void global_mean_row(const RowStep& step) {
    const int pixels = step.size(0), c = step.size(1);
    float* out = step.own<float>(0, c);
    const Element* x = step.own<Element>(1, pixels * c);
    for_row(c, [&](int i) { out[i] = mean_of_pixels(x + i, pixels, c); });
}

// A warp an output. Number 0 of the step is the epilogue's ReLU, which there is none of.
template <class X>
__device__ __forceinline__ void linear_row(const RowStep& step) {
    const int in = step.size(1), out = step.size(2), warp = static_cast<int>(threadIdx.x) / WARP;
    float* y = step.own<float>(0, out);
    const X* x = step.own<X>(1, in);
    const float* w = step.whole<float>(2);
    const float* bias = step.whole<float>(3);
    for (int column = warp; column < out; column += THREADS / WARP) {
        const float sum = warp_product(x, w + static_cast<size_t>(column) * in, in);
        if (threadIdx.x % WARP == 0) y[column] = sum + bias[column];
    }
}

__device__ __forceinline__ void loss_row(const RowStep& step) {
    if (threadIdx.x >= WARP) return;
    const int classes = step.size(3), y = static_cast<int>(step.one<unsigned>(2));
    const float value = loss_of(step.own<float>(1, classes), y, step.word(0), step.number(1), classes);
    if (threadIdx.x == 0) step.one(0) = step.number(2) * value;
}

__device__ __forceinline__ void loss_backward_row(const RowStep& step) {
    if (threadIdx.x >= WARP) return;
    const int classes = step.size(3), y = static_cast<int>(step.one<unsigned>(2));
    const float slope = step.number(2) * step.one(3);
    loss_gradient(step.own<float>(0, classes), step.own<float>(1, classes), y, slope, step.word(0), step.number(1),
                  classes);
}

// Four of the row's random numbers.
__device__ __forceinline__ float4 noise_of_row(const RowStep& step, int block) {
    return noise_of(static_cast<unsigned>(block), step.one<unsigned>(2), *step.whole<unsigned>(1), step.word(2),
                    step.word(0), step.word(1), step.word(3) != 0);
}

__device__ __forceinline__ void uniform_row(const RowStep& step) {
    const int n = step.size(4);
    float* out = step.own<float>(0, n);
    for_row(ceil_div(n, 4), [&](int block) { write_noise(out, block, n, noise_of_row(step, block)); });
}

__device__ __forceinline__ void uniform_row_x4(const RowStep& step) {
    float4* out = step.own<float4>(0, step.size(4));
    for_row(step.size(4), [&](int block) { out[block] = noise_of_row(step, block); });
}

template <typename V>
__device__ __forceinline__ void pgd_start_linf_row(const RowStep& step) {
    const int n = step.size(0);
    const float radius = step.one(2);
    V* adv = step.own<V>(0, n);
    const V* x = step.own<V>(1, n);
    const V* noise = step.own<V>(3, n);
    const auto start = [=](float x, float u) { return into_ball_and_box(x + radius * u, x, radius); };
    for_row(n, [&](int i) { adv[i] = each(start, x[i], noise[i]); });
}

template <typename V>
__device__ __forceinline__ void pgd_start_l2_row(const RowStep& step) {
    const int n = step.size(0);
    start_in_l2_ball(step.whole<V>(0), step.whole<V>(1), step.one(2), step.whole<V>(3),
                     static_cast<long long>(step.row) * n, n);
}

template <typename V>
__device__ __forceinline__ void along_direction_eps_row(const RowStep& step) {
    const int n = step.size(1);
    V* out = step.own<V>(0, n);
    const V* x = step.own<V>(1, n);
    const V* adv = step.own<V>(2, n);
    const AlongDirection along(step.one(4), step.one(3), step.word(0) != 0);
    for_row(n, [&](int i) { out[i] = each(along, x[i], adv[i]); });
}

// A step that one thread does: a number a row.
__device__ __forceinline__ void number_of_row(const RowStep& step) {
    if (threadIdx.x > 0) return;
    switch (step.code.kernel) {
        case RowWiseKernel::MEAN_WEIGHTS: step.one(0) = mean_weight(step.rows); break;
        case RowWiseKernel::HINGE_WEIGHTS: step.one(0) = hinge_weight(step.one(1), step.number(0), step.rows); break;
        default: halve_bracket(step.one(0), step.one(1), step.one(2), step.one(3), step.number(0)); break;
    }
}

}  // namespace

// Operands and code are in constant memory: see formula.cu. There are few blocks: one on a multiprocessor is enough,
// and its threads may use as many registers as the largest step takes.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    row_wise(const __grid_constant__ RowWiseOperands operands, const __grid_constant__ RowWiseCode code,
             const unsigned* rows, int capacity) {
    const int row = static_cast<int>(blockIdx.x), active = active_rows(rows, capacity);
    if (row >= active) return;
    for (unsigned at = 0; at < code.count; ++at) {
        const RowStep step{operands, code.steps[at], row, active};
        if (step.code.waits != 0) __syncthreads();
        const auto same = [](float a) { return a; };
        const auto scaled = [&](float a) { return step.number(0) * a; };
        const auto clamped = [&](float a) { return larger(a, step.number(0)); };
        switch (step.code.kernel) {
            case RowWiseKernel::GATHER_ROWS_BY1: gather_row<unsigned char>(step); break;
            case RowWiseKernel::GATHER_ROWS_BY4: gather_row<unsigned>(step); break;
            case RowWiseKernel::GATHER_ROWS_BY16: gather_row<uint4>(step); break;
            case RowWiseKernel::SCATTER_ROWS_BY1: scatter_row<unsigned char>(step); break;
            case RowWiseKernel::SCATTER_ROWS_BY4: scatter_row<unsigned>(step); break;
            case RowWiseKernel::SCATTER_ROWS_BY16: scatter_row<uint4>(step); break;
            case RowWiseKernel::BYTES_TO_UNIT: bytes_to_unit_row<float, unsigned char>(step); break;
            case RowWiseKernel::BYTES_TO_UNIT_X4: bytes_to_unit_row<float4, uchar4>(step); break;
            case RowWiseKernel::COPY: map_row<float>(step, 0, same); break;
            case RowWiseKernel::COPY_X4: map_row<float4>(step, 0, same); break;
            case RowWiseKernel::FILL: fill_row<float>(step); break;
            case RowWiseKernel::FILL_X4: fill_row<float4>(step); break;
            case RowWiseKernel::SCALE: map_row<float>(step, 1, scaled); break;
            case RowWiseKernel::SCALE_X4: map_row<float4>(step, 1, scaled); break;
            case RowWiseKernel::CLAMP_MIN: map_row<float>(step, 1, clamped); break;
            case RowWiseKernel::CLAMP_MIN_X4: map_row<float4>(step, 1, clamped); break;
            case RowWiseKernel::GLOBAL_MEAN: global_mean_row<float>(step); break;
            case RowWiseKernel::GLOBAL_MEAN_FROM_HALF: global_mean_row<Half>(step); break;
            case RowWiseKernel::LINEAR_WARP: linear_row<float>(step); break;
            case RowWiseKernel::LINEAR_WARP_FROM_HALF: linear_row<Half>(step); break;
            case RowWiseKernel::LOSS: loss_row(step); break;
            case RowWiseKernel::LOSS_BACKWARD: loss_backward_row(step); break;
            case RowWiseKernel::UNIFORM: uniform_row(step); break;
            case RowWiseKernel::UNIFORM_X4: uniform_row_x4(step); break;
            case RowWiseKernel::PGD_START_LINF: pgd_start_linf_row<float>(step); break;
            case RowWiseKernel::PGD_START_LINF_X4: pgd_start_linf_row<float4>(step); break;
            case RowWiseKernel::PGD_START_L2: pgd_start_l2_row<float>(step); break;
            case RowWiseKernel::PGD_START_L2_X4: pgd_start_l2_row<float4>(step); break;
            case RowWiseKernel::ALONG_DIRECTION_EPS: along_direction_eps_row<float>(step); break;
            case RowWiseKernel::ALONG_DIRECTION_EPS_X4: along_direction_eps_row<float4>(step); break;
            default: number_of_row(step); break;
        }
    }
}
