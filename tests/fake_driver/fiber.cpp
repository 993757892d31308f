#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "sanitizers.h"

#if !defined(__x86_64__) || !defined(__linux__)
#error "the fake driver's fibers are written for Linux on x86-64"
#endif

// void fake_switch(void** save, void* load): saves the callee-saved registers to the old stack and loads them from the
// new one. The control words of the FPU are the same in all fibers.
asm(R"(
.text
.globl fake_switch
.hidden fake_switch
.type fake_switch, @function
fake_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size fake_switch, .-fake_switch
)");
extern "C" void fake_switch(void** save, void* load);

namespace fake {

namespace {

constexpr size_t kStack = 256 * 1024;  // kernels under a sanitizer need large stacks
constexpr size_t kGuard = 4096;
// Stack tops at equal offsets of their pages would all map to the same cache sets.
constexpr size_t kStagger = 320, kStaggers = 64;

}  // namespace

void switch_fiber(Fiber& from, Fiber& to) {
    sanitizer_before_switch(to);
    fake_switch(&from.stopped, to.stopped);
    sanitizer_after_switch();
}

Fiber* FiberPool::make() {
    auto* map = static_cast<char*>(
        mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (map == MAP_FAILED || mprotect(map, kGuard, PROT_NONE) != 0) {
        perror("fake CUDA: no memory for the stack of a CUDA thread");
        abort();
    }
    auto* fiber = new Fiber;
    fiber->stack = map + kGuard;
    fiber->top = kStack - all_.size() % kStaggers * kStagger;
    all_.push_back(fiber);
    return fiber;
}

Fiber* FiberPool::take(void (*entry)()) {
    Fiber* fiber;
    if (free_.empty()) {
        fiber = make();
    } else {
        fiber = free_.back();
        free_.pop_back();
    }
    // The frame of a call of `entry`: six registers, its address, and a return address that must not be used.
    auto* stack = reinterpret_cast<uint64_t*>(fiber->stack + fiber->top);
    for (int i = 1; i <= 8; i++) stack[-i] = 0;
    stack[-2] = reinterpret_cast<uint64_t>(entry);
    fiber->stopped = stack - 8;
    sanitizer_fresh_fiber(*fiber);
    return fiber;
}

void FiberPool::take_all_back() {
    free_ = all_;
}

void FiberPool::forget() {
    for (Fiber* fiber : all_) {
        sanitizer_end_fiber(*fiber);
        munmap(fiber->stack - kGuard, kGuard + kStack);
        delete fiber;
    }
    all_.clear();
    free_.clear();
}

FiberPool::~FiberPool() { forget(); }

}  // namespace fake
