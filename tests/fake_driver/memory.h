// Device memory: host memory, each allocation between guard pages.
#pragma once

#include <string>

#include "api.h"

namespace fake {

// Null if the device's memory, the host's, or the test's patience (`fail_alloc`) is at its end.
CUdeviceptr allocate(size_t bytes, int device);
// False if nothing was allocated there.
bool release(CUdeviceptr start);
// Everything of a device, when its context goes.
void release_all(int device);

size_t used(int device);

// Whether all these bytes lie in one allocation.
bool inside(CUdeviceptr start, size_t bytes);

// Where an address lies, seen from the allocation next to it: "4 bytes past the end of allocation 3 (400 bytes)".
std::string locate(const void* address);

// Describes the first byte that was written beside an allocation since the last call; empty if there is none.
std::string damage();

}  // namespace fake
