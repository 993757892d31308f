#include "shared.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#include "options.h"
#include "sanitizers.h"

namespace fake {

namespace {

constexpr uint32_t kUnwritten = 0x7FC0DEAD, kCanaryWord = 0x7FC1C0DE;  // NaNs

char byte_of(uint32_t word, const char* address) {
    return reinterpret_cast<const char*>(&word)[reinterpret_cast<uintptr_t>(address) % 4];
}

void fill(char* start, const char* end, uint32_t word) {
    for (; start < end && reinterpret_cast<uintptr_t>(start) % 4; start++) *start = byte_of(word, start);
    for (; start + 4 <= end; start += 4) *reinterpret_cast<uint32_t*>(start) = word;
    for (; start < end; start++) *start = byte_of(word, start);
}

const char* first_other(const char* start, const char* end, uint32_t word) {
    for (; start < end; start++)
        if (*start != byte_of(word, start)) return start;
    return nullptr;
}

}  // namespace

SharedMemory::SharedMemory() { map(); }

SharedMemory::~SharedMemory() { munmap(start_, kArena + kTokens); }

void SharedMemory::map() {
    void* map = mmap(nullptr, kArena + kTokens, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        perror("fake CUDA: no memory for shared memory");
        abort();
    }
    start_ = static_cast<char*>(map);
}

void SharedMemory::start_block(size_t dynamic_bytes) {
    if (thread_sanitizer()) {  // accesses of different blocks are unrelated
        munmap(start_, kArena + kTokens);
        map();
    }
    if (address_sanitizer()) __asan_unpoison_memory_region(start_, kArena);
    end_ = start_;
    used_ = 0;
    arrays_.clear();
    add(nullptr, dynamic_bytes, "dynamic shared memory");
}

// Layout: canary, array, canary, then the first canary of the next array.
void SharedMemory::add(const void* site, size_t bytes, const char* name) {
    char* array = end_ + kCanary;
    char* past = array + bytes;
    char* next = start_ + (size_t(past - start_) + 2 * kCanary - 1) / kCanary * kCanary;
    fill(array, past, kUnwritten);
    if (address_sanitizer()) {  // checks the canaries itself
        __asan_poison_memory_region(end_, kCanary);
        __asan_poison_memory_region(past, size_t(next - past));
    } else {
        fill(end_, array, kCanaryWord);
        fill(past, next, kCanaryWord);
    }
    arrays_.push_back({site, name, array, bytes});
    end_ = next;
    used_ += bytes;
}

void* SharedMemory::get(const void* site, size_t bytes, const char* name) {
    for (const Array& array : arrays_)
        if (array.site == site) return array.start;
    if (used_ + bytes > kSharedOptIn || arrays_.size() > kMostArrays) return nullptr;
    add(site, bytes, name);
    return arrays_.back().start;
}

std::string SharedMemory::damage() const {
    if (address_sanitizer()) return "";
    const char* start = start_;
    for (const Array& array : arrays_) {
        const char* past = array.start + array.bytes;
        if (const char* at = first_other(start, array.start, kCanaryWord))
            return format("%zu bytes before %s in shared memory", size_t(array.start - at), array.name);
        start = start_ + (size_t(past - start_) + 2 * kCanary - 1) / kCanary * kCanary;
        if (const char* at = first_other(past, start, kCanaryWord))
            return format("%zu bytes past the end of %s (%zu bytes) in shared memory", size_t(at - past), array.name,
                          array.bytes);
    }
    return "";
}

}  // namespace fake
