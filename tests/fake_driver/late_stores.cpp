#include "late_stores.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "memory.h"

namespace fake {

namespace {

// Memory of an allocation, and its content as other blocks see it.
struct Published {
    char* start;
    std::vector<char> content;
};

struct HiddenByte {
    char* address;
    char value;
};

std::vector<Published> published;
std::vector<HiddenByte> hidden;
// Bytes that the running block had stored, and not fenced, when it performed an atomic, as other blocks see them.
std::vector<HiddenByte> unfenced;

// Calls f(byte, byte as others see it) for all bytes that are not as others see them.
template <class F>
void for_each_difference(F f) {
    constexpr size_t kPiece = 4096;
    for (Published& memory : published) {
        for (size_t piece = 0; piece < memory.content.size(); piece += kPiece) {
            size_t bytes = std::min(kPiece, memory.content.size() - piece);
            if (memcmp(memory.start + piece, memory.content.data() + piece, bytes) == 0) continue;
            for (size_t i = piece; i < piece + bytes; i++)
                if (memory.start[i] != memory.content[i]) f(memory.start[i], memory.content[i]);
        }
    }
}

// The byte as others see it; null if it is not in device memory.
char* seen(const char* byte) {
    for (Published& memory : published) {
        if (byte >= memory.start && byte < memory.start + memory.content.size())
            return memory.content.data() + (byte - memory.start);
    }
    return nullptr;
}

}  // namespace

void begin_late_stores() {
    for_each_allocation([](char* start, size_t bytes) { published.push_back({start, {start, start + bytes}}); });
}

void publish_stores() {
    for_each_difference([](char& byte, char& others) { others = byte; });
    for (const HiddenByte& byte : unfenced) *seen(byte.address) = byte.value;
}

void publish_atomic(const void* address, size_t bytes) {
    auto* from = static_cast<const char*>(address);
    char* others = seen(from);
    if (!others) return;
    memcpy(others, from, bytes);
    for_each_difference([](char& byte, char& others) { unfenced.push_back({&byte, others}); });
}

void hide_stores_of_block() {
    for_each_difference([](char& byte, char& others) {
        hidden.push_back({&byte, byte});
        byte = others;
    });
    unfenced.clear();
}

void end_late_stores() {
    for (const HiddenByte& byte : hidden) *byte.address = byte.value;
    hidden.clear();
    published.clear();
}

}  // namespace fake
