#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <map>

#include "options.h"
#include "sanitizers.h"

namespace fake {

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlign = 256;        // alignment of every allocation, as cuMemAlloc guarantees
constexpr size_t kAlignAtGuard = 16;  // of the largest vector; a larger alignment would leave a gap before the guard page
constexpr uint32_t kPoison = 0x7FC0DEAD;  // a NaN, and an invalid index

struct Allocation {
    char* start;
    size_t bytes;
    char* map;  // start of the readable mapping
    size_t mapped;
    int device;
    int serial;
};

// Allocations by start. Never destroyed, because a thread may still run when the process ends.
auto& allocations = *new std::map<const char*, Allocation>;
int serials = 0;

void poison(char* start, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) start[i] = reinterpret_cast<const char*>(&kPoison)[i % 4];
}

// Canaries around the allocation, up to the guard pages.
void poison_gaps(const Allocation& a) {
    size_t before = size_t(a.start - a.map);
    for (size_t i = 0; i < a.mapped; i++)
        if (i < before || i >= before + a.bytes) a.map[i] = reinterpret_cast<const char*>(&kPoison)[i % 4];
}

bool poisoned(const char* start, size_t i) { return start[i] == reinterpret_cast<const char*>(&kPoison)[i % 4]; }

bool map_pages(Allocation& a) {
    if (address_sanitizer()) {  // has its own zones around allocations of malloc, exact to the byte
        void* start = nullptr;
        if (posix_memalign(&start, kAlign, a.bytes) != 0) return false;
        a.start = a.map = static_cast<char*>(start);
        a.mapped = a.bytes;
        return true;
    }
    a.mapped = (a.bytes + kPage - 1) / kPage * kPage;
    void* map = mmap(nullptr, a.mapped + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return false;
    a.map = static_cast<char*>(map) + kPage;
    if (mprotect(a.map, a.mapped, PROT_READ | PROT_WRITE) != 0) {
        munmap(map, a.mapped + 2 * kPage);
        return false;
    }
    size_t gap = options.guard_end ? (a.mapped - a.bytes) / kAlignAtGuard * kAlignAtGuard : 0;
    a.start = a.map + gap;
    return true;
}

void unmap_pages(const Allocation& a) {
    if (address_sanitizer()) {
        free(a.map);
    } else {
        munmap(a.map - kPage, a.mapped + 2 * kPage);
    }
}

const Allocation* nearest(const char* address) {
    auto distance = [&](const Allocation& a) {
        if (address < a.start) return size_t(a.start - address);
        return address < a.start + a.bytes ? 0 : size_t(address - (a.start + a.bytes)) + 1;
    };
    const Allocation* best = nullptr;
    auto next = allocations.upper_bound(address);
    if (next != allocations.end()) best = &next->second;
    if (next != allocations.begin()) {
        const Allocation* before = &std::prev(next)->second;
        if (!best || distance(*before) <= distance(*best)) best = before;
    }
    return best;
}

std::string name(const Allocation& a) { return format("allocation %d (%zu bytes)", a.serial, a.bytes); }

}  // namespace

CUdeviceptr allocate(size_t bytes, int device) {
    if (options.fail_alloc > 0 && --options.fail_alloc == 0) return 0;
    if (bytes > options.memory || used(device) > options.memory - bytes) return 0;
    Allocation a{nullptr, bytes, nullptr, 0, device, ++serials};
    if (!map_pages(a)) return 0;
    poison(a.map, a.mapped);
    allocations[a.start] = a;
    return reinterpret_cast<CUdeviceptr>(a.start);
}

bool release(CUdeviceptr start) {
    auto found = allocations.find(reinterpret_cast<const char*>(start));
    if (found == allocations.end()) return false;
    unmap_pages(found->second);
    allocations.erase(found);
    return true;
}

void release_all(int device) {
    for (auto it = allocations.begin(); it != allocations.end();) {
        if (it->second.device != device) {
            ++it;
            continue;
        }
        unmap_pages(it->second);
        it = allocations.erase(it);
    }
}

size_t used(int device) {
    size_t sum = 0;
    for (auto& [start, a] : allocations) sum += a.device == device ? a.bytes : 0;
    return sum;
}

bool inside(CUdeviceptr start, size_t bytes) {
    auto* address = reinterpret_cast<const char*>(start);
    const Allocation* a = nearest(address);
    if (!a || address < a->start) return false;
    size_t offset = size_t(address - a->start);
    return offset <= a->bytes && bytes <= a->bytes - offset;
}

std::string locate(const void* address) {
    auto* at = static_cast<const char*>(address);
    const Allocation* a = nearest(at);
    if (!a) return format("address %p, with nothing allocated", address);
    if (at < a->start) return format("%zu bytes before %s", size_t(a->start - at), name(*a).c_str());
    size_t offset = size_t(at - a->start);
    if (offset < a->bytes) return format("byte %zu of %s", offset, name(*a).c_str());
    return format("%zu bytes past the end of %s", offset - a->bytes, name(*a).c_str());
}

void for_each_allocation(const std::function<void(char*, size_t)>& f) {
    for (auto& [start, a] : allocations) f(a.start, a.bytes);
}

std::string damage() {
    for (auto& [start, a] : allocations) {
        for (size_t i = 0; i < a.mapped; i++) {
            if (i == size_t(a.start - a.map)) i += a.bytes;
            if (i >= a.mapped || poisoned(a.map, i)) continue;
            std::string where = locate(a.map + i);
            poison_gaps(a);
            return where;
        }
    }
    return "";
}

}  // namespace fake
