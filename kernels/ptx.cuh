// All inline PTX of the project: one function an instruction, for sm_80 and later.
//
// Each function has a host twin, which the fake driver (tests/fake_driver) runs instead, and a kernel in
// conformance.cu. tests/ptx.rs compares the kernel's results with the PTX manual, to the bit, on the fake driver and on
// a GPU.
#pragma once

#include "prelude.cuh"

// cp.async copies from global to shared memory while the thread continues. A thread commits its copies in groups and
// waits for groups. After the wait this thread may read the data; after a barrier the other threads may, too.

// Copies 4 bytes between addresses that are multiples of 4, or writes zeros if not `live`. `global` has to be readable
// in both cases.
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

// Copies 16 bytes between addresses that are multiples of 16, or writes zeros if not `live`. Bypasses the L1 cache.
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

// Commits the copies that this thread has started since its last commit as a group, which may be empty.
__device__ __forceinline__ void cp_async_commit() {
#ifdef MAXMARGIN_HOST
    host_cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most PENDING groups of this thread are pending: the latest ones.
template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
#ifdef MAXMARGIN_HOST
    host_cp_async_wait(PENDING);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}
