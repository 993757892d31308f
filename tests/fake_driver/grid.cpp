// Runs the blocks of a launch in the requested order, on the requested number of threads of the operating system.
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "block.h"
#include "late_stores.h"
#include "memory.h"
#include "options.h"
#include "sanitizers.h"

namespace fake {

namespace {

// Least number of CUDA threads for which another thread of the operating system pays off.
constexpr size_t kThreadsAlone = 2048;
// A thousand stacks with guard pages are two thousand mappings; a process may have 65530.
constexpr unsigned kMostWorkers = 16;

struct Job {
    explicit Job(const Launch& l) : launch(&l), blocks(size_t(l.grid.x) * l.grid.y * l.grid.z) {}

    const Launch* launch;
    size_t blocks;
    std::vector<uint32_t> order;  // empty: forward
    std::atomic<size_t> next{0};
    std::mutex mutex;
    std::optional<Failure> failure;

    void work() {
        for (;;) {
            size_t i = next.fetch_add(1);
            if (i >= blocks) break;
            size_t block = order.empty() ? i : order[i];
            if (auto failed = worker().run(*launch, block)) {
                next = blocks;
                std::lock_guard lock(mutex);
                if (!failure) failure = std::move(failed);
            }
            if (options.stores_late) hide_stores_of_block();
        }
        worker().end_launch();
    }
};

// Helper threads. They are never joined: the process may end while they wait.
class Helpers {
public:
    void help(Job& job, unsigned wanted) {
        std::unique_lock lock(mutex_);
        for (; count_ < wanted; count_++) std::thread([this] { serve(); }).detach();
        job_ = &job;
        tickets_ = wanted;
        busy_ = wanted;
        lock.unlock();
        wake_.notify_all();
        job.work();
        lock.lock();
        done_.wait(lock, [&] { return busy_ == 0; });
    }

private:
    void serve() {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return tickets_ > 0; });
            tickets_--;
            Job* job = job_;
            lock.unlock();
            job->work();
            lock.lock();
            if (--busy_ == 0) done_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    Job* job_ = nullptr;
    unsigned count_ = 0, tickets_ = 0, busy_ = 0;
};

unsigned helpers_for(size_t threads) {
    if (thread_sanitizer() || options.stores_late || threads <= kThreadsAlone) return 0;
    unsigned workers = options.workers ? unsigned(options.workers) : std::thread::hardware_concurrency();
    return std::min(std::max(workers, 1u), kMostWorkers) - 1;
}

}  // namespace

std::optional<Failure> run_grid(const Launch& launch) {
    static auto* helpers = new Helpers;
    catch_faults();
    Job job(launch);
    if (options.blocks.order != Order::forward) {
        job.order.resize(job.blocks);
        arrange(job.order.data(), job.blocks, options.blocks, 0);
    }
    size_t threads = size_t(launch.block.x) * launch.block.y * launch.block.z;
    unsigned wanted = helpers_for(job.blocks * threads);
    if (options.stores_late) begin_late_stores();
    if (wanted && job.blocks > 1) {
        helpers->help(job, unsigned(std::min<size_t>(wanted, job.blocks - 1)));
    } else {
        job.work();
    }
    if (options.stores_late) end_late_stores();
    if (job.failure) return std::move(job.failure);
    if (std::string where = damage(); !where.empty())
        return Failure{CUDA_ERROR_ILLEGAL_ADDRESS,
                       format("kernel %s (thread unknown): wrote %s", launch.kernel->name, where.c_str())};
    return std::nullopt;
}

}  // namespace fake
