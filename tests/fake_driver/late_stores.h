// Stores that become visible to other blocks late: with `stores=late`.
#pragma once

#include <cstddef>

namespace fake {

// The block that runs sees its own stores. What it stored and did not fence is taken back when it ends, and stored again
// when the launch has ended. So another block sees what was in memory before: the latest time at which a device may make
// a store visible. Blocks run one after another.
void begin_late_stores();
// All that the running block has stored is visible from now on, except what it had not fenced when it performed an
// atomic: another block may have seen the atomic, and read, before the fence.
void publish_stores();
// The effect of an atomic is visible at once, whatever else the block stored.
void publish_atomic(const void* address, size_t bytes);
void hide_stores_of_block();
void end_late_stores();

}  // namespace fake
