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
