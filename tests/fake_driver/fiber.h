// Stacks of CUDA threads, and the switch between them.
#pragma once

#include <cstddef>
#include <vector>

namespace fake {

struct Fiber {
    void* stopped = nullptr;  // stack pointer while another fiber runs
    char* stack = nullptr;    // lowest byte; null for the stack of the operating system's thread
    size_t top = 0;           // offset of the start in bytes
    void* sanitizer = nullptr;
};

// Suspends `from` and continues `to`.
void switch_fiber(Fiber& from, Fiber& to);

// The fibers of one thread of the operating system.
class FiberPool {
public:
    ~FiberPool();
    // A fiber that starts in `entry`, which must not return.
    Fiber* take(void (*entry)());
    // Returns a fiber for reuse. The caller may continue until it switches.
    void give(Fiber* fiber) { free_.push_back(fiber); }
    // Discards the content of all fibers.
    void take_all_back();
    // Returns the stacks to the system. ThreadSanitizer needs this after every block: a stack that two CUDA threads use
    // in turn looks like shared memory, until the system maps it anew.
    void forget();

private:
    Fiber* make();
    std::vector<Fiber*> all_, free_;
};

}  // namespace fake
