// The beginning of every kernel file: shared memory, row counts, sums in a fixed order, warp helpers.
//
// A kernel is `extern "C" __global__`; its arguments are pointers, int, unsigned, float and small structs. Outputs come
// first, then inputs, then the row count, then sizes. The compiler makes no fused multiply-add (-fmad=false); the
// source calls fmaf for one. So a kernel's arithmetic is that of its source, on every machine.
#pragma once

#include "abi.cuh"

#ifndef MAXMARGIN_HOST
// `SHARED(float, tile, [16][17])` declares an array of a block. The fake driver's compiler has its own definition.
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
// Shared memory whose size is an argument of the launch.
#define DYN_SHARED(type, name)                           \
    extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    type* name = reinterpret_cast<type*>(name##_bytes)
#endif

// All lanes of a warp.
constexpr unsigned FULL_MASK = 0xffffffffu;

// Number of active rows: the count on the device, or all rows if the pointer is null.
__device__ __forceinline__ int active_rows(const unsigned* rows, int capacity) {
    return rows == nullptr ? capacity : min(static_cast<int>(*rows), capacity);
}

// Number of this thread in a one-dimensional grid. 64 bits: a large batch has more than 2^31 elements.
__device__ __forceinline__ long long global_thread() {
    return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// The larger and the smaller of two numbers; b if they are equal, zeros of both signs included, or if one is NaN. fmaxf
// and fminf are not used: which zero they return differs between machines.
template <typename T>
__device__ __forceinline__ T larger(T a, T b) {
    return a > b ? a : b;
}

template <typename T>
__device__ __forceinline__ T smaller(T a, T b) {
    return a < b ? a : b;
}

// Sum over a warp, in the order of a binary tree; the same bits in every lane.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(FULL_MASK, value, lanes);
    return value;
}

// Sum over a block of at most 1024 threads; the same bits in every thread. Every thread of the block calls it.
template <typename T>
__device__ __forceinline__ T block_sum(T value) {
    SHARED(T, sums, [WARP]);
    value = warp_sum(value);
    __syncthreads();  // all threads have read the sums of the previous call
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = value;
    __syncthreads();
    const int warps = (blockDim.x + WARP - 1) / WARP;
    T total = sums[0];
    for (int w = 1; w < warps; ++w) total += sums[w];
    return total;
}

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }
