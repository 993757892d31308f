// Annotations for the sanitizers. Kernels are instrumented, the fake driver is not. So a sanitizer sees the kernels'
// memory accesses, and learns here which fiber runs and which accesses are ordered. The sanitizer is recognised when
// the library is loaded, by its functions.
#pragma once

#include <pthread.h>

#include "fiber.h"

extern "C" {
#define WEAK __attribute__((weak))
WEAK void __asan_poison_memory_region(const void* start, size_t bytes);
WEAK void __asan_unpoison_memory_region(const void* start, size_t bytes);
WEAK void __sanitizer_start_switch_fiber(void** fake_stack, const void* stack, size_t bytes);
WEAK void __sanitizer_finish_switch_fiber(void* fake_stack, const void** old_stack, size_t* old_bytes);
WEAK void* __tsan_get_current_fiber();
WEAK void* __tsan_create_fiber(unsigned flags);
WEAK void __tsan_destroy_fiber(void* fiber);
WEAK void __tsan_switch_to_fiber(void* fiber, unsigned flags);
WEAK void __tsan_acquire(void* address);
WEAK void __tsan_release(void* address);
#undef WEAK
}

namespace fake {

inline bool address_sanitizer() { return __asan_poison_memory_region != nullptr; }

// ThreadSanitizer must see each CUDA thread as a thread: a fiber then belongs to one CUDA thread, and memory to one
// block.
inline bool thread_sanitizer() { return __tsan_create_fiber != nullptr; }

inline void sanitizer_before_switch(const Fiber& to) {
    constexpr unsigned kNoOrder = 1;
    if (address_sanitizer()) __sanitizer_start_switch_fiber(nullptr, to.stack, to.top);
    if (thread_sanitizer()) __tsan_switch_to_fiber(to.sanitizer, kNoOrder);
}

inline void sanitizer_after_switch() {
    if (address_sanitizer()) __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
}

// Registers `fiber` as the calling thread of the operating system.
inline void sanitizer_own_stack(Fiber& fiber) {
    if (thread_sanitizer()) fiber.sanitizer = __tsan_get_current_fiber();
    if (!address_sanitizer()) return;
    pthread_attr_t attributes;
    void* stack = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &stack, &fiber.top);
    pthread_attr_destroy(&attributes);
    fiber.stack = static_cast<char*>(stack);
}

inline void sanitizer_fresh_fiber(Fiber& fiber) {
    if (address_sanitizer()) __asan_unpoison_memory_region(fiber.stack, fiber.top);
    if (thread_sanitizer()) fiber.sanitizer = __tsan_create_fiber(0);
}

inline void sanitizer_end_fiber(Fiber& fiber) {
    if (fiber.sanitizer) __tsan_destroy_fiber(fiber.sanitizer);
    fiber.sanitizer = nullptr;
}

// Accesses before a release of `token` are ordered before accesses after an acquire of it.
inline void order_release(void* token) {
    if (thread_sanitizer()) __tsan_release(token);
}
inline void order_acquire(void* token) {
    if (thread_sanitizer()) __tsan_acquire(token);
}

}  // namespace fake
