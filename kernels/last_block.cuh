// Sums over the blocks of a launch: each block stores its part, and the last one to do so adds all parts in their
// order. So the result has the same bits whichever block is last, and no second launch is needed. The count of blocks
// is an integer; floats are never added by atomics.
#pragma once

#include "prelude.cuh"

// True in one of `blocks` blocks, the one that calls it last: there, what the others stored before they called it is
// visible. `counter` is 0 before the launch and after it. `last` is an integer in shared memory. Every thread of the
// block calls it.
__device__ __forceinline__ bool is_last_block(unsigned* counter, int blocks, int* last) {
    __syncthreads();  // all threads of the block have stored
    if (threadIdx.x == 0) {
        // The fence before the count makes the block's stores visible to whoever reads the count; the fence after it
        // makes those of the other blocks visible here.
        __threadfence();
        *last = atomicAdd(counter, 1u) == static_cast<unsigned>(blocks) - 1u;
        __threadfence();
        if (*last != 0) atomicExch(counter, 0u);
    }
    __syncthreads();
    return *last != 0;
}

__device__ __forceinline__ bool is_last_block(unsigned* counter, int blocks) {
    SHARED(int, last, [1]);
    return is_last_block(counter, blocks, last);
}
