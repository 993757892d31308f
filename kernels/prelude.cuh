// What every kernel file begins with: shared memory, row counts, fixed-order sums, warp helpers.
//
// A kernel is `extern "C" __global__`; its arguments are pointers, int, unsigned, float and small structs. Outputs come
// first, then inputs, then the row count, then sizes. No fused multiply-add is made by the compiler (-fmad=false):
// where one is wanted, fmaf says so. So a kernel's arithmetic is what its source says, on every machine.
#pragma once

#include "abi.cuh"

#ifndef MAXMARGIN_HOST
// `SHARED(float, tile, [16][17])` is one block's array; the macros exist so that a host compiler can build kernels too.
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
// Shared memory whose size the launch says.
#define DYN_SHARED(type, name)                           \
    extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    type* name = reinterpret_cast<type*>(name##_bytes)
#endif

// All lanes of a warp.
constexpr unsigned FULL_MASK = 0xffffffffu;

// How many rows are active: the count on the device, or all where none is kept.
__device__ __forceinline__ int active_rows(const unsigned* rows, int capacity) {
    return rows == nullptr ? capacity : min(static_cast<int>(*rows), capacity);
}

// This thread's place in a one-dimensional grid. 64 bits: a batch has more than 2^31 elements when it is large.
__device__ __forceinline__ long long global_thread() {
    return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// The sum over a warp, the same bits in every lane: the order is that of a binary tree.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(FULL_MASK, value, lanes);
    return value;
}

// The sum over a block of at most 1024 threads, the same bits in every thread. Every thread of the block calls it.
template <typename T>
__device__ __forceinline__ T block_sum(T value) {
    SHARED(T, sums, [WARP]);
    value = warp_sum(value);
    __syncthreads();  // the last call's sums have been read
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = value;
    __syncthreads();
    const int warps = (blockDim.x + WARP - 1) / WARP;
    T total = sums[0];
    for (int w = 1; w < warps; ++w) total += sums[w];
    return total;
}

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }
