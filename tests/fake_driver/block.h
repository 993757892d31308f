// One block: its CUDA threads as fibers of one thread of the operating system, and their synchronisation.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "fiber.h"
#include "grid.h"
#include "host.h"
#include "shared.h"

namespace fake {

// Reason why the operating system stopped a CUDA thread.
struct Fault {
    int signal;
    const void* address;
    const void* code;
    bool write;
};

// Runs blocks, one at a time. Every thread of the operating system has its own worker.
class Worker {
public:
    Worker();
    ~Worker();

    std::optional<Failure> run(const Launch& launch, size_t block_index);
    // Called after the last block of a launch that this worker ran.
    void end_launch();

    // Called by CUDA threads.
    int meet_block(Vote vote, int predicate, const char* file, int line);
    uint64_t meet_warp(Collective kind, unsigned mask, uint64_t value, int source, const char* file, int line);
    const char* exchange(const void* mine, size_t bytes, const char* file, int line);
    void* shared(const void* site, size_t bytes, const char* name);
    void* dynamic_shared() { return memory_.dynamic(); }
    int lane() const { return int(current_ % kWarp); }
    [[noreturn]] void trap(const char* what, const char* file, int line);
    void async_begin(const AsyncCopy& copy);
    void async_commit();
    const AsyncCopy* async_due(int pending);

    // Called at the address that a signal's handler returned to.
    [[noreturn]] void faulted();
    Fault fault{};
    // Stack on which a faulted CUDA thread continues: its own, from the top.
    char* fresh_stack() const;

private:
    enum class State : unsigned char { fresh, ready, at_barrier, at_warp, left };

    // State of a waiting CUDA thread: the place, and the value it contributes.
    struct Wait {
        const char* what;
        const char* file;
        int line;
        Collective kind;
        unsigned mask;
        int source;
        uint64_t value, result;
    };
    // Pending cp.async copies of one thread.
    struct Pending {
        std::deque<std::vector<AsyncCopy>> groups;
        std::vector<AsyncCopy> open;
        size_t done = 0;  // copies of the first group that are done
    };
    struct Warp {
        unsigned live, waiting;
    };

    void own_signal_stack();
    static void fiber_entry();
    void run_threads();
    void start(const Launch& launch, size_t block_index);
    void arrange_threads();
    void go(Fiber& from, unsigned thread);
    void make_current(unsigned thread);
    int pick();
    void wait(State state);
    void leave();
    void complete_barrier();
    void complete_warp(unsigned warp);
    [[noreturn]] void fail(CUresult error, const std::string& text);
    std::string where(unsigned thread) const;
    std::string waiting_places() const;
    // Barriers of one kind alternate between two tokens. A thread that arrives early at the next barrier must not
    // appear to be ordered before a thread that leaves this one late.
    void* barrier_token(bool odd) { return memory_.tokens() + 8 * odd; }
    void* warp_token(bool odd) { return memory_.tokens() + 16 + 8 * (current_ / kWarp * 2 + odd); }

    FiberPool fibers_;
    Fiber main_;
    SharedMemory memory_;
    std::unique_ptr<char[]> signal_stack_;

    const Launch* launch_ = nullptr;
    unsigned threads_ = 0, live_ = 0, runnable_ = 0, arrived_ = 0, cursor_ = 0, current_ = 0;
    uint64_t salt_ = 0;
    std::optional<Failure> failure_;

    Vote vote_ = Vote::none;
    int votes_ = 0, vote_result_ = 0;
    bool odd_barrier_ = false;

    dim3 shape_{0, 0, 0};  // shape of the block that indices_ belongs to
    uint3 indices_[kMaxThreads];
    State states_[kMaxThreads];
    uint16_t order_[kMaxThreads];
    Fiber* stacks_[kMaxThreads];
    Wait waits_[kMaxThreads];
    Warp warps_[kMaxThreads / kWarp];
    bool odd_warp_[kMaxThreads];
    bool odd_exchange_[kMaxThreads];
    char exchanged_[2][kMaxThreads][kExchange];
    std::vector<Pending> pending_;  // empty while no copy is pending
};

// Worker of the calling thread, created at the first call.
Worker& worker();
// Worker of the calling thread if it runs a CUDA thread, else null. Safe in a signal's handler.
Worker* running();

// Turns faults of CUDA threads into failed launches.
void catch_faults();
constexpr size_t kSignalStack = 64 * 1024;

}  // namespace fake
