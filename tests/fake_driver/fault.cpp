// Turns an access that the operating system refuses into a failed launch: the signal's handler makes the CUDA thread
// return to a function that gives up its block, and the process continues.
#include <dlfcn.h>
#include <signal.h>
#include <ucontext.h>

#include "block.h"
#include "memory.h"
#include "options.h"
#include "sanitizers.h"

namespace fake {

namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE};
struct sigaction previous[64];

void land() { running()->faulted(); }

void on_signal(int signal, siginfo_t* info, void* raw) {
    auto& registers = static_cast<ucontext_t*>(raw)->uc_mcontext.gregs;
    Worker* worker = running();
    if (!worker) {  // not a CUDA thread: the instruction runs again with the previous handler
        sigaction(signal, &previous[signal], nullptr);
        return;
    }
    constexpr long kWriteBit = 2;
    worker->fault = {signal, info->si_addr, reinterpret_cast<void*>(registers[REG_RIP]),
                     (registers[REG_ERR] & kWriteBit) != 0};
    registers[REG_RSP] = reinterpret_cast<long long>(worker->fresh_stack()) - 8;
    registers[REG_RIP] = reinterpret_cast<long long>(&land);
}

}  // namespace

void catch_faults() {
    static bool caught = false;
    if (address_sanitizer() || thread_sanitizer() || std::exchange(caught, true)) return;
    struct sigaction action {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int signal : kSignals) sigaction(signal, &action, &previous[signal]);
}

char* Worker::fresh_stack() const { return stacks_[current_]->stack + stacks_[current_]->top; }

void Worker::faulted() {
    Dl_info library{};
    dladdr(fault.code, &library);
    std::string code = format(" (instruction at %s+0x%zx)", library.dli_fname ? library.dli_fname : "?",
                              size_t(static_cast<const char*>(fault.code) - static_cast<char*>(library.dli_fbase)));
    auto* address = static_cast<const char*>(fault.address);
    if (fault.signal == SIGFPE) fail(CUDA_ERROR_LAUNCH_FAILED, "integer division by zero" + code);
    const Fiber& fiber = *stacks_[current_];
    if (address < fiber.stack && address >= fiber.stack - 4096)
        fail(CUDA_ERROR_LAUNCH_FAILED, "more local variables than the fake driver has stack for" + code);
    if (!address)
        fail(CUDA_ERROR_ILLEGAL_ADDRESS, "access through a null, misaligned or wild pointer" + code);
    fail(CUDA_ERROR_ILLEGAL_ADDRESS, std::string(fault.write ? "write " : "read ") + locate(address) + code);
}

// The handler needs a stack other than the one that has overflowed. Threads of Rust have one already.
void Worker::own_signal_stack() {
    stack_t present{};
    sigaltstack(nullptr, &present);
    if (!(present.ss_flags & SS_DISABLE)) return;
    signal_stack_ = std::make_unique<char[]>(kSignalStack);
    present = {signal_stack_.get(), 0, kSignalStack};
    sigaltstack(&present, nullptr);
}

Worker::~Worker() {
    if (!signal_stack_) return;
    stack_t none{nullptr, SS_DISABLE, 0};
    sigaltstack(&none, nullptr);
}

}  // namespace fake
