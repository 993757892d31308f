// Device memory: host memory, each allocation between guard pages.
#pragma once

#include <functional>
#include <string>

#include "api.h"

namespace fake {

// Null if the device's memory or the host's is exhausted, or if `fail_alloc` says so.
CUdeviceptr allocate(size_t bytes, int device);
// False if there is no allocation at this address.
bool release(CUdeviceptr start);
// Frees all memory of a device, when its context is released.
void release_all(int device);

size_t used(int device);

// True if all these bytes are in one allocation.
bool inside(CUdeviceptr start, size_t bytes);

// Describes an address relative to the nearest allocation: "4 bytes past the end of allocation 3 (400 bytes)".
std::string locate(const void* address);

// Calls `f` with the memory of each allocation.
void for_each_allocation(const std::function<void(char* start, size_t bytes)>& f);

// Describes the first byte that was written outside an allocation since the last call; empty if there is none.
std::string damage();

}  // namespace fake
