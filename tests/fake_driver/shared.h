// Shared memory of a block: NaN until it is written, between canaries that are checked when the block ends.
#pragma once

#include <string>
#include <vector>

#include "api.h"

namespace fake {

class SharedMemory {
public:
    SharedMemory();
    ~SharedMemory();

    void start_block(size_t dynamic_bytes);
    // Memory of `site`; null if the device has not enough.
    void* get(const void* site, size_t bytes, const char* name);
    void* dynamic() { return start_ + kCanary; }
    // Describes an overwritten canary; empty if none was.
    std::string damage() const;
    // Addresses that represent barriers and warp operations for the sanitizers.
    char* tokens() { return start_ + kArena; }

private:
    static constexpr size_t kCanary = 128;  // also the alignment of arrays
    static constexpr size_t kMostArrays = 64;
    static constexpr size_t kArena = kSharedOptIn + (kMostArrays + 2) * 3 * kCanary;
    static constexpr size_t kTokens = 1024;

    struct Array {
        const void* site;
        const char* name;
        char* start;
        size_t bytes;
    };
    void add(const void* site, size_t bytes, const char* name);
    void map();

    char* start_ = nullptr;
    char* end_ = nullptr;  // end of the memory in use
    size_t used_ = 0;
    std::vector<Array> arrays_;
};

}  // namespace fake
