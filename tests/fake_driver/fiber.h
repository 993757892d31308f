// Stacks to run CUDA threads on, and the switch from one to another.
#pragma once

#include <cstddef>
#include <vector>

namespace fake {

struct Fiber {
    void* stopped = nullptr;  // its stack pointer while another runs
    char* stack = nullptr;    // the lowest byte; null for the stack of the operating system's thread
    size_t top = 0;           // bytes from there to where it starts
    void* sanitizer = nullptr;
};

// Leaves `from` and goes on in `to`.
void switch_fiber(Fiber& from, Fiber& to);

// The fibers of one thread of the operating system.
class FiberPool {
public:
    ~FiberPool();
    // A fiber that will start in `entry`, which must not return.
    Fiber* take(void (*entry)());
    // To be taken again. The caller may go on until it switches.
    void give(Fiber* fiber) { free_.push_back(fiber); }
    // Nothing that the fibers hold is of use any more.
    void take_all_back();
    // Gives the stacks back to the system. ThreadSanitizer needs that after every block: a stack that another CUDA
    // thread used before looks like memory that both share, until the system hands it out anew.
    void forget();

private:
    Fiber* make();
    std::vector<Fiber*> all_, free_;
};

}  // namespace fake
