// CUDA C++ for g++, included before every kernel file. Each CUDA thread of a block is a fiber of block.cpp, which this
// header calls at barriers, warp operations and shared memory.
#pragma once

#include "intrinsics.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)  // read from the source where the kernel is registered
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) alignas(n)
#define __grid_constant__

namespace fake {

// Position of the running CUDA thread. A thread of the operating system runs one CUDA thread at a time.
struct Here {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
};
extern __thread Here here __attribute__((tls_model("initial-exec"), visibility("hidden")));

// Memory of the block for the SHARED declaration at `site`, filled with NaN at the first use.
void* shared(const void* site, size_t bytes, const char* name);
void* dynamic_shared();

enum class Vote { none, any, all, count };
int meet_block(Vote vote, int predicate, const char* file, int line);

enum class Collective { sync, shuffle, ballot, sync_registers };
// Waits for all threads of `mask` that have not left. A shuffle returns the value of lane `source` (NaN bits if that
// lane does not take part), a ballot the lanes whose value is not 0.
uint64_t meet_warp(Collective kind, unsigned mask, uint64_t value, int source, const char* file, int line);
int lane();
// Gives `mine` to the other lanes of the warp. Returns the bytes of lane 0; those of lane i begin i * kExchange later.
// They stay until this warp's next exchange. Orders no memory accesses.
constexpr size_t kExchange = 256;
const char* exchange(const void* mine, size_t bytes, const char* file, int line);

[[noreturn]] void trap(const char* what, const char* file, int line);

// A pending cp.async copy.
struct AsyncCopy {
    void* to;
    const void* from;
    int bytes, valid;
};
bool copies_late();
void async_begin(const AsyncCopy& copy);
void async_commit();
// Next copy that is due if at most `pending` groups may stay pending; null after the last.
const AsyncCopy* async_due(int pending);

void fence();
void atomic_done(const void* address, size_t bytes);

inline void copy(const AsyncCopy& c) {
    for (int i = 0; i < c.bytes; i++) ((char*)c.to)[i] = i < c.valid ? ((const char*)c.from)[i] : 0;
}

// Atomically replaces a number if `wanted` says so; returns the one before.
template <class T, class F>
inline T replace_if(T* p, T value, F wanted) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (wanted(old) && !__atomic_compare_exchange_n(p, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}

template <class T>
inline T shuffle(unsigned mask, T value, int source, const char* file, int line) {
    static_assert((sizeof(T) == 4 || sizeof(T) == 8) && std::is_trivially_copyable_v<T>);
    uint64_t word = 0;
    __builtin_memcpy(&word, &value, sizeof value);
    word = meet_warp(Collective::shuffle, mask, word, source, file, line);
    __builtin_memcpy(&value, &word, sizeof value);
    return value;
}
}  // namespace fake

#define threadIdx (fake::here.thread)
#define blockIdx (fake::here.block)
#define blockDim (fake::here.block_dim)
#define gridDim (fake::here.grid_dim)
constexpr int warpSize = 32;

// Every declaration has its own key, one for each instantiation of a template, as `__shared__` has.
#define SHARED(type, name, ...)                                                                        \
    type(&name) __VA_ARGS__ = *reinterpret_cast<type(*) __VA_ARGS__>(fake::shared(                     \
        [] { static const char site = 0; return static_cast<const void*>(&site); }(), sizeof(type __VA_ARGS__), #name))
#define DYN_SHARED(type, name) type* name = reinterpret_cast<type*>(fake::dynamic_shared())

// Location of a call, for reports.
#define FAKE_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(FAKE_PLACE) { fake::meet_block(fake::Vote::none, 0, file, line); }
inline int __syncthreads_or(int p, FAKE_PLACE) { return fake::meet_block(fake::Vote::any, p, file, line); }
inline int __syncthreads_and(int p, FAKE_PLACE) { return fake::meet_block(fake::Vote::all, p, file, line); }
inline int __syncthreads_count(int p, FAKE_PLACE) { return fake::meet_block(fake::Vote::count, p, file, line); }

inline void __syncwarp(unsigned mask = ~0u, FAKE_PLACE) {
    fake::meet_warp(fake::Collective::sync, mask, 0, 0, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int p, FAKE_PLACE) {
    return unsigned(fake::meet_warp(fake::Collective::ballot, mask, p != 0, 0, file, line));
}
inline int __any_sync(unsigned mask, int p, FAKE_PLACE) { return __ballot_sync(mask, p, file, line) != 0; }
inline int __all_sync(unsigned mask, int p, FAKE_PLACE) { return __ballot_sync(mask, !p, file, line) == 0; }

// A lane whose source is outside its segment of `width` lanes keeps its own value.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, FAKE_PLACE) {
    int first = fake::lane() & ~(width - 1);
    return fake::shuffle(mask, value, first | (source & (width - 1)), file, line);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, FAKE_PLACE) {
    int lane = fake::lane(), source = lane - int(delta);
    return fake::shuffle(mask, value, source < (lane & ~(width - 1)) ? lane : source, file, line);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, FAKE_PLACE) {
    int lane = fake::lane(), source = lane + int(delta);
    return fake::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, file, line);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, FAKE_PLACE) {
    int lane = fake::lane(), source = lane ^ lanes;
    return fake::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, file, line);
}

// Atomics on integers only: a sum of floats in no fixed order is not reproducible, so it does not compile. As on the
// device they order no other accesses: ThreadSanitizer reports what only an atomic, without a fence, would order.
#define FAKE_ATOMIC(type, name, effect)    \
    inline type name(type* p, type v) {    \
        type old = effect;                 \
        fake::atomic_done(p, sizeof *p);   \
        return old;                        \
    }
#define FAKE_ATOMICS(type)                                                                \
    FAKE_ATOMIC(type, atomicAdd, __atomic_fetch_add(p, v, __ATOMIC_RELAXED))              \
    FAKE_ATOMIC(type, atomicSub, __atomic_fetch_sub(p, v, __ATOMIC_RELAXED))              \
    FAKE_ATOMIC(type, atomicAnd, __atomic_fetch_and(p, v, __ATOMIC_RELAXED))              \
    FAKE_ATOMIC(type, atomicOr, __atomic_fetch_or(p, v, __ATOMIC_RELAXED))                \
    FAKE_ATOMIC(type, atomicXor, __atomic_fetch_xor(p, v, __ATOMIC_RELAXED))              \
    FAKE_ATOMIC(type, atomicExch, __atomic_exchange_n(p, v, __ATOMIC_RELAXED))            \
    FAKE_ATOMIC(type, atomicMax, fake::replace_if(p, v, [=](type old) { return old < v; })) \
    FAKE_ATOMIC(type, atomicMin, fake::replace_if(p, v, [=](type old) { return v < old; })) \
    inline type atomicCAS(type* p, type old, type v) {                                    \
        __atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
        fake::atomic_done(p, sizeof *p);                                                  \
        return old;                                                                       \
    }
FAKE_ATOMICS(int)
FAKE_ATOMICS(unsigned)
FAKE_ATOMICS(unsigned long long)
#undef FAKE_ATOMICS
#undef FAKE_ATOMIC

inline void __threadfence() { fake::fence(); }
inline void __threadfence_system() { fake::fence(); }

[[noreturn]] inline void __trap(FAKE_PLACE) { fake::trap("__trap()", file, line); }
#undef assert
#define assert(condition) ((condition) ? void() : fake::trap("assert(" #condition ")", __FILE__, __LINE__))

// The host twins of conversions to and from half precision.
inline unsigned short host_half_of(float value) { return fake::half_of(value); }
inline float host_float_of(unsigned short half) { return fake::float_of(half); }

// The host twin of ldmatrix: each lane reads the elements of its fragment.
inline void host_ldmatrix(unsigned (&fragment)[4], const void* row, bool transposed, FAKE_PLACE) {
    if (uintptr_t(row) % 16 != 0) fake::trap("ldmatrix of a misaligned row", file, line);
    const char* rows = fake::exchange(&row, sizeof row, file, line);
    const int lane = fake::lane();
    for (int matrix = 0; matrix < 4; ++matrix) {
        unsigned short pair[2];
        for (int i = 0; i < 2; ++i) {
            int across = 2 * (lane % 4) + i, down = lane / 4;
            if (transposed) std::swap(across, down);
            const unsigned short* from;
            __builtin_memcpy(&from, rows + (8 * matrix + down) * fake::kExchange, sizeof from);
            pair[i] = from[across];
        }
        fragment[matrix] = pair[0] | unsigned(pair[1]) << 16;
    }
}

// The host twin of mma, with sums in the order of k. Each lane computes its own sums from the warp's fragments.
template <int ROWS, int COLUMNS>
inline void host_mma(float (&sums)[ROWS][COLUMNS][4], const unsigned (&a)[ROWS][4], const unsigned (&b)[COLUMNS][2],
                     FAKE_PLACE) {
    struct Fragments {
        unsigned a[ROWS][4], b[COLUMNS][2];
    } mine;
    __builtin_memcpy(mine.a, a, sizeof a);
    __builtin_memcpy(mine.b, b, sizeof b);
    const char* lanes = fake::exchange(&mine, sizeof mine, file, line);
    const auto of = [&](int lane) -> const Fragments& {
        return *reinterpret_cast<const Fragments*>(lanes + lane * fake::kExchange);
    };
    const auto half = [](unsigned pair, int i) { return fake::float_of((unsigned short)(pair >> 16 * i)); };
    const int lane = fake::lane(), group = lane / 4 * 4;
    float right[16][COLUMNS][2];  // B[k][column] of this lane's columns
    for (int k = 0; k < 16; ++k)
        for (int c = 0; c < COLUMNS; ++c)
            for (int j = 0; j < 2; ++j)
                right[k][c][j] = half(of((lane % 4 * 2 + j) * 4 + k % 8 / 2).b[c][k / 8], k % 2);
    for (int r = 0; r < ROWS; ++r) {
        for (int k = 0; k < 16; ++k) {
            for (int lower = 0; lower < 2; ++lower) {
                const float left = half(of(group + k % 8 / 2).a[r][k / 8 * 2 + lower], k % 2);
                for (int c = 0; c < COLUMNS; ++c)
                    for (int j = 0; j < 2; ++j) sums[r][c][2 * lower + j] += left * right[k][c][j];
            }
        }
    }
}
#undef FAKE_PLACE

// The host twins of cp.async: 4, 8 or 16 bytes, of which the first `valid` are copied and the rest are zero.
inline void host_cp_async(void* shared, const void* global, int bytes, int valid) {
    fake::AsyncCopy copy{shared, global, bytes, valid};
    bool aligned = (uintptr_t(shared) | uintptr_t(global)) % unsigned(bytes) == 0;
    if (!aligned) fake::trap("cp.async of a misaligned address", __FILE__, __LINE__);
    if (fake::copies_late()) {
        fake::async_begin(copy);
    } else {
        fake::copy(copy);
    }
}
inline void host_cp_async_commit() { fake::async_commit(); }
inline void host_cp_async_wait(int pending) {
    while (const fake::AsyncCopy* due = fake::async_due(pending)) fake::copy(*due);
}
