// Kernels of one warp that show the results of each function of ptx.cuh, to the bit. tests/ptx.rs launches them.
#include "ptx.cuh"

// Lane i copies element i, or zeros if bit i of `live` is not set, then writes its neighbour's copy to `out`.
template <class T, class Copy>
__device__ __forceinline__ void copy_and_cross(T* out, const T* from, unsigned live, T before, const Copy& copy) {
    SHARED(T, tile, [WARP]);
    const int lane = threadIdx.x;
    tile[lane] = before;  // not zero, so that written zeros are visible
    __syncthreads();
    copy(&tile[lane], &from[lane], live >> lane & 1);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    out[lane] = tile[lane ^ 1];
}

extern "C" __global__ void __launch_bounds__(WARP)
    conformance_cp_async_4(unsigned* __restrict__ out, const unsigned* __restrict__ from, unsigned live) {
    copy_and_cross(out, from, live, ~0u, cp_async_4);
}
extern "C" __global__ void __launch_bounds__(WARP)
    conformance_cp_async_16(uint4* __restrict__ out, const uint4* __restrict__ from, unsigned live) {
    copy_and_cross(out, from, live, make_uint4(~0u, ~0u, ~0u, ~0u), cp_async_16);
}

// Copies rows of a warp's width through two stages: while one row's copies are pending, it waits for the row before and
// writes it to `out`. In the last iteration the pending group is empty.
extern "C" __global__ void __launch_bounds__(WARP)
    conformance_cp_async_groups(unsigned* __restrict__ out, const unsigned* __restrict__ from, int rows) {
    SHARED(unsigned, halves, [2][WARP]);
    const int lane = threadIdx.x;
    cp_async_4(&halves[0][lane], &from[lane], true);
    cp_async_commit();
    for (int row = 0; row < rows; ++row) {
        if (row + 1 < rows) cp_async_4(&halves[(row + 1) % 2][lane], &from[(row + 1) * WARP + lane], true);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        out[row * WARP + lane] = halves[row % 2][lane ^ 1];
        __syncthreads();
    }
}

// Converts `count` words to halves, or pairs of halves back to words, in which a float's bits are.
extern "C" __global__ void __launch_bounds__(WARP)
    conformance_half_of(unsigned* __restrict__ out, const unsigned* __restrict__ from, int count) {
    for (int i = threadIdx.x; i < count; i += WARP) out[i] = half_of(__uint_as_float(from[i]));
}
extern "C" __global__ void __launch_bounds__(WARP)
    conformance_half_pair_of(unsigned* __restrict__ out, const unsigned* __restrict__ from, int count) {
    for (int i = threadIdx.x; i < count; i += WARP) {
        out[i] = half_pair_of(__uint_as_float(from[i]), __uint_as_float(from[count - 1 - i]));
    }
}
extern "C" __global__ void __launch_bounds__(WARP)
    conformance_float_of(unsigned* __restrict__ out, const unsigned* __restrict__ from, int count) {
    for (int i = threadIdx.x; i < count; i += WARP) {
        out[i] = __float_as_uint(float_of(static_cast<unsigned short>(from[i])));
    }
}

// Loads four matrices from the rows of 16 bytes that `from` has, in the order that a lane's number XOR `order` gives.
template <class Load>
__device__ __forceinline__ void load_matrices(uint4* out, const uint4* from, unsigned order, const Load& load) {
    SHARED(uint4, rows, [WARP]);
    const int lane = threadIdx.x;
    rows[lane] = from[lane];
    __syncthreads();
    unsigned fragment[4];
    load(fragment, &rows[lane ^ order]);
    out[lane] = make_uint4(fragment[0], fragment[1], fragment[2], fragment[3]);
}
extern "C" __global__ void __launch_bounds__(WARP)
    conformance_ldmatrix_x4(uint4* __restrict__ out, const uint4* __restrict__ from, unsigned order) {
    load_matrices(out, from, order, [](unsigned (&to)[4], const void* row) { ldmatrix_x4(to, row); });
}
extern "C" __global__ void __launch_bounds__(WARP)
    conformance_ldmatrix_x4_trans(uint4* __restrict__ out, const uint4* __restrict__ from, unsigned order) {
    load_matrices(out, from, order, [](unsigned (&to)[4], const void* row) { ldmatrix_x4_trans(to, row); });
}

// Products of a [ROWS 16, 16] by b [COLUMNS 8, 16] (transposed), as fragments: `from` has a's words, ROWS x 4 a lane, then
// b's, COLUMNS x 2 a lane; `out` has ROWS x COLUMNS x 4 sums a lane, which begin at `start`.
extern "C" __global__ void __launch_bounds__(WARP)
    conformance_mma(float* __restrict__ out, const unsigned* __restrict__ from, float start) {
    constexpr int ROWS = 2, COLUMNS = 3;
    const int lane = threadIdx.x;
    unsigned a[ROWS][4], b[COLUMNS][2];
    float sums[ROWS][COLUMNS][4];
    for (int i = 0; i < ROWS * 4; ++i) a[i / 4][i % 4] = from[lane * ROWS * 4 + i];
    for (int i = 0; i < COLUMNS * 2; ++i) b[i / 2][i % 2] = from[WARP * ROWS * 4 + lane * COLUMNS * 2 + i];
    for (int i = 0; i < ROWS * COLUMNS * 4; ++i) sums[i / 4 / COLUMNS][i / 4 % COLUMNS][i % 4] = start;
    mma(sums, a, b);
    for (int i = 0; i < ROWS * COLUMNS * 4; ++i) {
        out[lane * ROWS * COLUMNS * 4 + i] = sums[i / 4 / COLUMNS][i / 4 % COLUMNS][i % 4];
    }
}
