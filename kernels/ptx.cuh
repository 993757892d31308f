// All inline PTX of the project: one function an instruction, for sm_80 and later.
//
// Each has a host twin, which the fake driver (tests/fake_driver) runs in its place, and a kernel in conformance.cu
// that shows what it does, to the bit: tests/ptx.rs compares that with the PTX manual, on the fake driver and on a GPU.
#pragma once

#include "prelude.cuh"

// cp.async copies from global to shared memory while the thread goes on. Copies are gathered into groups, and waiting
// is for groups: then the thread that waited may read what it had copied, and after a barrier the other threads may.

// Copies 4 bytes, at addresses that are multiples of 4; or zeros, if not `live`. `global` has to be an address that may
// be read either way.
__device__ __forceinline__ void cp_async_4(void* shared, const void* global, bool live) {
#ifdef MAXMARGIN_HOST
    host_cp_async(shared, global, 4, live ? 4 : 0);
#else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(shared))),
                 "l"(__cvta_generic_to_global(global)), "r"(live ? 4 : 0)
                 : "memory");
#endif
}

// The same of 16 bytes, at addresses that are multiples of 16. They pass by the L1 cache.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool live) {
#ifdef MAXMARGIN_HOST
    host_cp_async(shared, global, 16, live ? 16 : 0);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(shared))),
                 "l"(__cvta_generic_to_global(global)), "r"(live ? 16 : 0)
                 : "memory");
#endif
}

// Makes a group of the copies that this thread has begun since its last one; of none, if there are none.
__device__ __forceinline__ void cp_async_commit() {
#ifdef MAXMARGIN_HOST
    host_cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most PENDING groups of this thread are on their way: the latest ones.
template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
#ifdef MAXMARGIN_HOST
    host_cp_async_wait(PENDING);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}
