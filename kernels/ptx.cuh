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

// Half precision: 16 bits as IEEE 754 says (binary16). A pair is two of them in 32 bits, the first one in the low bits.

// Rounds to the nearest half, ties to even; too large a number becomes infinite.
__device__ __forceinline__ unsigned short half_of(float value) {
#ifdef MAXMARGIN_HOST
    return host_half_of(value);
#else
    unsigned short half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
#endif
}

// A half's value, which a float holds exactly.
__device__ __forceinline__ float float_of(unsigned short half) {
#ifdef MAXMARGIN_HOST
    return host_float_of(half);
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
#endif
}

// Rounds two numbers to a pair of halves.
__device__ __forceinline__ unsigned half_pair_of(float first, float second) {
#ifdef MAXMARGIN_HOST
    return host_half_of(first) | static_cast<unsigned>(host_half_of(second)) << 16;
#else
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
#endif
}

// Matrix fragments. A warp holds a matrix of halves in fragments: lane i of each 8 x 8 matrix has the elements 2 (i % 4)
// and 2 (i % 4) + 1 of row i / 4, as a pair. All lanes of a warp call these functions together.

// Loads four 8 x 8 matrices from shared memory. Row r of matrix m is the 16 bytes at the address that lane 8 m + r
// passes, a multiple of 16.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&fragment)[4], const void* row) {
#ifdef MAXMARGIN_HOST
    host_ldmatrix(fragment, row, false);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

// As `ldmatrix_x4`, of the transposed matrices: lane i has the elements 2 (i % 4) and 2 (i % 4) + 1 of column i / 4.
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&fragment)[4], const void* row) {
#ifdef MAXMARGIN_HOST
    host_ldmatrix(fragment, row, true);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

// sums += A B on tensor cores, for ROWS x COLUMNS products of 16 x 16 by 16 x 8 halves; sums are floats. A warp's lane i
// holds, with g = i / 4 and p = 2 (i % 4):
//
//     a[r][0..3]       the pairs A[g][p], A[g + 8][p], A[g][p + 8], A[g + 8][p + 8] of rows 16 r and up
//     b[c][0..1]       the pairs B[p][c'], B[p + 8][c'] (elements k, k + 1 of a column c' = 8 c + g)
//     sums[r][c][0..3] out[g][p], out[g][p + 1], out[g + 8][p], out[g + 8][p + 1] of rows 16 r and columns 8 c and up
template <int ROWS, int COLUMNS>
__device__ __forceinline__ void mma(
    float (&sums)[ROWS][COLUMNS][4], const unsigned (&a)[ROWS][4], const unsigned (&b)[COLUMNS][2]) {
#ifdef MAXMARGIN_HOST
    host_mma(sums, a, b);
#else
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
            float(&sum)[4] = sums[r][c];
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                         "{%8, %9}, {%0, %1, %2, %3};"
                         : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                         : "r"(a[r][0]), "r"(a[r][1]), "r"(a[r][2]), "r"(a[r][3]), "r"(b[c][0]), "r"(b[c][1]));
        }
    }
#endif
}
