#include "block.h"

#include <cstring>
#include <map>
#include <tuple>

#include "late_stores.h"
#include "memory.h"
#include "options.h"
#include "sanitizers.h"

namespace fake {

__thread Here here = {};

namespace {

__thread Worker* running_worker __attribute__((tls_model("initial-exec"))) = nullptr;

char launch_token, fence_token;

constexpr uint64_t kNobody = 0x7FC0DEAD7FC0DEAD;  // value of a lane that does not take part

uint3 unflatten(size_t i, dim3 shape) {
    return {unsigned(i % shape.x), unsigned(i / shape.x % shape.y), unsigned(i / shape.x / shape.y)};
}

std::string text_of(uint3 i) { return format("(%u,%u,%u)", i.x, i.y, i.z); }

}  // namespace

// A pointer, because a library that is loaded late has little space for thread-local variables.
Worker& worker() {
    thread_local std::unique_ptr<Worker> own;
    if (!own) own = std::make_unique<Worker>();
    return *own;
}

Worker* running() { return running_worker; }

Worker::Worker() {
    sanitizer_own_stack(main_);
    own_signal_stack();
}

// Runs a block.

void Worker::start(const Launch& launch, size_t block_index) {
    launch_ = &launch;
    here.block = unflatten(block_index, launch.grid);
    here.grid_dim = launch.grid;
    here.block_dim = launch.block;
    threads_ = live_ = runnable_ = launch.block.x * launch.block.y * launch.block.z;
    arrived_ = 0;
    salt_ = mix(block_index);
    arrange_threads();
    if (memcmp(&shape_, &launch.block, sizeof shape_) != 0) {
        shape_ = launch.block;
        for (unsigned i = 0; i < threads_; i++) indices_[i] = unflatten(i, shape_);
    }
    memset(states_, int(State::fresh), threads_);
    for (unsigned warp = 0; warp * kWarp < threads_; warp++) {
        unsigned lanes = std::min(threads_ - warp * kWarp, kWarp);
        warps_[warp] = {lanes == kWarp ? ~0u : (1u << lanes) - 1, 0};
    }
    memset(odd_exchange_, 0, sizeof odd_exchange_);
    if (thread_sanitizer()) {
        memset(odd_warp_, 0, sizeof odd_warp_);
        // A thread is ordered after its creator, so no thread of the block may create another one.
        for (unsigned i = 0; i < threads_; i++) stacks_[i] = fibers_.take(fiber_entry);
    }
    pending_.clear();
    memory_.start_block(launch.dynamic);
}

void Worker::arrange_threads() {
    salt_ = mix(salt_);
    arrange(order_, threads_, options.threads, salt_);
    cursor_ = 0;
}

std::optional<Failure> Worker::run(const Launch& launch, size_t block_index) {
    start(launch, block_index);
    running_worker = this;
    go(main_, unsigned(pick()));
    running_worker = nullptr;
    if (thread_sanitizer()) fibers_.forget();
    if (failure_) {
        fibers_.take_all_back();
        return std::exchange(failure_, std::nullopt);
    }
    if (std::string where = memory_.damage(); !where.empty())
        return Failure{CUDA_ERROR_ILLEGAL_ADDRESS, format("kernel %s block %s: wrote %s", launch.kernel->name,
                                                          text_of(here.block).c_str(), where.c_str())};
    return std::nullopt;
}

void Worker::end_launch() { order_acquire(&launch_token); }

void Worker::fiber_entry() {
    sanitizer_after_switch();
    running_worker->run_threads();
}

// Body of a fiber: runs one CUDA thread after another, until the next thread waits on a fiber of its own. So a block
// whose threads never wait is a loop on one stack.
void Worker::run_threads() {
    for (;;) {
        launch_->kernel->call(launch_->arguments);
        leave();
        Fiber* mine = stacks_[current_];
        int next = pick();
        if (next >= 0 && states_[next] == State::fresh && !thread_sanitizer()) {
            stacks_[next] = mine;
            make_current(unsigned(next));
            continue;
        }
        if (!thread_sanitizer()) fibers_.give(mine);
        if (next >= 0) go(*mine, unsigned(next));
        if (live_ > 0) fail(CUDA_ERROR_LAUNCH_FAILED, "deadlock: " + waiting_places());
        switch_fiber(*mine, main_);
    }
}

void Worker::make_current(unsigned thread) {
    current_ = thread;
    states_[thread] = State::ready;
    here.thread = indices_[thread];
}

void Worker::go(Fiber& from, unsigned thread) {
    if (states_[thread] == State::fresh && !thread_sanitizer()) stacks_[thread] = fibers_.take(fiber_entry);
    make_current(thread);
    switch_fiber(from, *stacks_[thread]);
}

// Next thread in order that can run; -1 if none can.
int Worker::pick() {
    if (runnable_ == 0) return -1;
    for (;;) {
        unsigned thread = order_[cursor_];
        if (++cursor_ == threads_) cursor_ = 0;
        if (states_[thread] <= State::ready) return int(thread);
    }
}

void Worker::leave() {
    order_release(&launch_token);
    states_[current_] = State::left;
    runnable_--;
    live_--;
    Warp& warp = warps_[current_ / kWarp];
    warp.live &= ~(1u << lane());
    if (warp.waiting) complete_warp(current_ / kWarp);
    if (arrived_ > 0 && arrived_ == live_) complete_barrier();
}

// Barriers and warp operations.

void Worker::wait(State state) {
    unsigned me = current_;
    states_[me] = state;
    runnable_--;
    if (state == State::at_warp) complete_warp(me / kWarp);
    if (state == State::at_barrier && arrived_ == live_) complete_barrier();
    int next = pick();
    if (next < 0) fail(CUDA_ERROR_LAUNCH_FAILED, "deadlock: " + waiting_places());
    if (unsigned(next) != me) go(*stacks_[me], unsigned(next));
}

int Worker::meet_block(Vote vote, int predicate, const char* file, int line) {
    static const char* const names[] = {"__syncthreads", "__syncthreads_or", "__syncthreads_and",
                                        "__syncthreads_count"};
    waits_[current_] = {names[int(vote)], file, line, Collective::sync, 0, 0, 0, 0};
    if (arrived_++ == 0) {
        vote_ = vote;
        votes_ = 0;
    }
    votes_ += predicate != 0;
    bool odd = odd_barrier_;
    order_release(barrier_token(odd));
    wait(State::at_barrier);
    order_acquire(barrier_token(odd));
    return vote_result_;
}

void Worker::complete_barrier() {
    const Wait* first = nullptr;
    for (unsigned i = 0; i < threads_; i++) {
        if (states_[i] != State::at_barrier) continue;
        if (!first) first = &waits_[i];
        if (first->line != waits_[i].line || strcmp(first->file, waits_[i].file) != 0)
            fail(CUDA_ERROR_LAUNCH_FAILED, "threads of one block meet at different barriers: " + waiting_places());
    }
    for (unsigned i = 0; i < threads_; i++)
        if (states_[i] == State::at_barrier) states_[i] = State::ready;
    vote_result_ = vote_ == Vote::any ? votes_ > 0 : vote_ == Vote::all ? votes_ == int(arrived_) : votes_;
    runnable_ += arrived_;
    arrived_ = 0;
    odd_barrier_ = !odd_barrier_;
    if (options.threads.order == Order::random) arrange_threads();
    cursor_ = 0;
}

uint64_t Worker::meet_warp(Collective kind, unsigned mask, uint64_t value, int source, const char* file, int line) {
    static const char* const names[] = {"__syncwarp", "a warp shuffle", "a warp vote", "a warp's matrix operation"};
    unsigned me = current_;
    waits_[me] = {names[int(kind)], file, line, kind, mask, source, value, 0};
    if (!(mask >> lane() & 1))
        fail(CUDA_ERROR_LAUNCH_FAILED, format("the mask %08x does not name its thread: %s", mask, where(me).c_str()));
    warps_[me / kWarp].waiting |= 1u << lane();
    void* token = warp_token(odd_warp_[me]);
    if (thread_sanitizer()) odd_warp_[me] = !odd_warp_[me];
    // Only __syncwarp orders memory accesses.
    if (kind == Collective::sync) order_release(token);
    wait(State::at_warp);
    if (kind == Collective::sync) order_acquire(token);
    return waits_[me].result;
}

// Two buffers suffice: a lane writes to a buffer again after all lanes have arrived at the exchange between, so that they
// have read it. The copy is no memcpy, which a sanitizer would see as an access by this thread.
const char* Worker::exchange(const void* mine, size_t bytes, const char* file, int line) {
    if (bytes > kExchange) trap("too many bytes for an exchange", file, line);
    const unsigned me = current_;
    char(*lanes)[kExchange] = exchanged_[odd_exchange_[me]];
    odd_exchange_[me] = !odd_exchange_[me];
    for (size_t i = 0; i < bytes; i++) {
        lanes[me][i] = static_cast<const char*>(mine)[i];
        asm volatile("");
    }
    meet_warp(Collective::sync_registers, ~0u, 0, 0, file, line);
    return lanes[me / kWarp * kWarp];
}

// Releases each group of lanes that is complete.
void Worker::complete_warp(unsigned index) {
    Warp& warp = warps_[index];
    Wait* waits = &waits_[index * kWarp];
    unsigned unseen = warp.waiting;
    while (unseen) {
        const Wait first = waits[__builtin_ctz(unseen)];
        unsigned group = first.mask & warp.live;
        unseen &= (unseen - 1) & ~group;
        if ((warp.waiting & group) != group) continue;
        uint64_t ballot = 0;
        for (unsigned lanes = group; lanes; lanes &= lanes - 1) {
            const Wait& wait = waits[__builtin_ctz(lanes)];
            if (wait.mask != first.mask || wait.kind != first.kind)
                fail(CUDA_ERROR_LAUNCH_FAILED, "a warp diverged: " + waiting_places());
            ballot |= uint64_t(wait.value != 0) << __builtin_ctz(lanes);
        }
        for (unsigned lanes = group; lanes; lanes &= lanes - 1) {
            int lane = __builtin_ctz(lanes);
            Wait& wait = waits[lane];
            bool present = group >> (wait.source & 31) & 1;
            wait.result = first.kind == Collective::ballot ? ballot : present ? waits[wait.source & 31].value : kNobody;
            states_[index * kWarp + unsigned(lane)] = State::ready;
        }
        runnable_ += unsigned(__builtin_popcount(group));
        warp.waiting &= ~group;
    }
}

// cp.async copies, performed as late as possible.

void Worker::async_begin(const AsyncCopy& copy) {
    // No thread may read the target until the wait.
    auto* to = static_cast<char*>(copy.to);
    for (int i = 0; i < copy.bytes; i++) to[i] = reinterpret_cast<const char*>(&kNobody)[i % 8];
    if (pending_.empty()) pending_.resize(kMaxThreads);
    pending_[current_].open.push_back(copy);
}

void Worker::async_commit() {
    if (!options.copies_late) return;
    if (pending_.empty()) pending_.resize(kMaxThreads);
    Pending& mine = pending_[current_];
    mine.groups.push_back(std::exchange(mine.open, {}));
}

const AsyncCopy* Worker::async_due(int allowed) {
    if (pending_.empty()) return nullptr;
    Pending& mine = pending_[current_];
    while (mine.groups.size() > size_t(allowed)) {
        if (mine.done < mine.groups.front().size()) return &mine.groups.front()[mine.done++];
        mine.groups.pop_front();
        mine.done = 0;
    }
    return nullptr;
}

void* Worker::shared(const void* site, size_t bytes, const char* name) {
    if (void* memory = memory_.get(site, bytes, name)) return memory;
    fail(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, format("no shared memory for the %zu bytes of %s", bytes, name));
}

// Failures.

std::string Worker::where(unsigned thread) const {
    return format("kernel %s block %s thread %s", launch_->kernel->name, text_of(here.block).c_str(),
                  text_of(indices_[thread]).c_str());
}

std::string Worker::waiting_places() const {
    std::map<std::tuple<std::string, int, std::string>, std::vector<unsigned>> places;
    for (unsigned i = 0; i < threads_; i++)
        if (states_[i] == State::at_barrier || states_[i] == State::at_warp)
            places[{waits_[i].file, waits_[i].line, waits_[i].what}].push_back(i);
    std::string text;
    for (auto& [place, threads] : places) {
        auto& [file, line, what] = place;
        text += format("%zu threads from %s on wait at %s, %s:%d; ", threads.size(),
                       text_of(indices_[threads[0]]).c_str(), what.c_str(), file.c_str(), line);
    }
    return text + format("%u have left", threads_ - live_);
}

// Gives up the block: its fibers are never resumed.
void Worker::fail(CUresult error, const std::string& text) {
    failure_ = Failure{error, where(current_) + ": " + text};
    switch_fiber(*stacks_[current_], main_);
    __builtin_unreachable();
}

void Worker::trap(const char* what, const char* file, int line) {
    fail(CUDA_ERROR_LAUNCH_FAILED, format("%s at %s:%d", what, file, line));
}

// Functions that kernels call.

void* shared(const void* site, size_t bytes, const char* name) { return running_worker->shared(site, bytes, name); }
void* dynamic_shared() { return running_worker->dynamic_shared(); }
int lane() { return running_worker->lane(); }
int meet_block(Vote vote, int predicate, const char* file, int line) {
    return running_worker->meet_block(vote, predicate, file, line);
}
uint64_t meet_warp(Collective kind, unsigned mask, uint64_t value, int source, const char* file, int line) {
    return running_worker->meet_warp(kind, mask, value, source, file, line);
}
const char* exchange(const void* mine, size_t bytes, const char* file, int line) {
    return running_worker->exchange(mine, bytes, file, line);
}
void trap(const char* what, const char* file, int line) { running_worker->trap(what, file, line); }
bool copies_late() { return options.copies_late; }
void async_begin(const AsyncCopy& copy) { running_worker->async_begin(copy); }
void async_commit() { running_worker->async_commit(); }
const AsyncCopy* async_due(int pending) { return running_worker->async_due(pending); }
void atomic_done(const void* address, size_t bytes) {
    if (options.stores_late) publish_atomic(address, bytes);
}
void fence() {
    if (options.stores_late) publish_stores();
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    order_acquire(&fence_token);
    order_release(&fence_token);
}

}  // namespace fake
