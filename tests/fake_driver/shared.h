// A block's shared memory: NaN until it is written, between canaries that are looked at when the block ends.
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
    // Memory of `site`; null if the device has not so much.
    void* get(const void* site, size_t bytes, const char* name);
    void* dynamic() { return start_ + kCanary; }
    // Names what was overwritten beside an array; empty if nothing was.
    std::string damage() const;
    // For sanitizers: addresses that stand for the meetings of a block's threads.
    char* tokens() { return start_ + kArena; }

private:
    static constexpr size_t kCanary = 128;  // keeps arrays aligned to it
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
    char* end_ = nullptr;  // of what the block has used
    size_t used_ = 0;
    std::vector<Array> arrays_;
};

}  // namespace fake
