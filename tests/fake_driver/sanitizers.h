// What the sanitizers are told. The fake driver itself is never instrumented, the kernels are: so a sanitizer sees what
// the kernels do to memory, and learns here which fiber runs and what is ordered before what.
#pragma once

#include "fiber.h"

#ifdef FAKE_ASAN
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef FAKE_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace fake {

inline void sanitizer_before_switch([[maybe_unused]] Fiber& to) {
#ifdef FAKE_ASAN
    // The bounds of the first stack are not known here, and not needed: nothing is checked on it.
    __sanitizer_start_switch_fiber(nullptr, to.stack, to.top);
#endif
#ifdef FAKE_TSAN
    constexpr unsigned kNoOrder = 1;
    __tsan_switch_to_fiber(to.sanitizer, kNoOrder);
#endif
}

inline void sanitizer_after_switch() {
#ifdef FAKE_ASAN
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

inline void sanitizer_fresh_fiber([[maybe_unused]] Fiber& fiber, [[maybe_unused]] size_t bytes) {
#ifdef FAKE_ASAN
    __asan_unpoison_memory_region(fiber.stack, bytes);
#endif
#ifdef FAKE_TSAN
    fiber.sanitizer = __tsan_create_fiber(0);
#endif
}

inline void sanitizer_end_fiber([[maybe_unused]] Fiber& fiber) {
#ifdef FAKE_TSAN
    if (fiber.sanitizer) __tsan_destroy_fiber(fiber.sanitizer);
    fiber.sanitizer = nullptr;
#endif
}

// Makes `fiber` stand for the calling thread of the operating system.
inline void sanitizer_own_stack([[maybe_unused]] Fiber& fiber) {
#ifdef FAKE_ASAN
    pthread_attr_t attributes;
    void* stack = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &stack, &fiber.top);
    pthread_attr_destroy(&attributes);
    fiber.stack = static_cast<char*>(stack);
#endif
#ifdef FAKE_TSAN
    fiber.sanitizer = __tsan_get_current_fiber();
#endif
}

// What was done before a release of `token` is ordered before what is done after an acquire of it.
inline void order_release([[maybe_unused]] void* token) {
#ifdef FAKE_TSAN
    __tsan_release(token);
#endif
}

inline void order_acquire([[maybe_unused]] void* token) {
#ifdef FAKE_TSAN
    __tsan_acquire(token);
#endif
}

}  // namespace fake
