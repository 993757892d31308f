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

}  // namespace

void begin_late_stores() {
    for_each_allocation([](char* start, size_t bytes) { published.push_back({start, {start, start + bytes}}); });
}

void publish_stores() {
    for (Published& memory : published) memcpy(memory.content.data(), memory.start, memory.content.size());
}

void publish_atomic(const void* address, size_t bytes) {
    auto* from = static_cast<const char*>(address);
    for (Published& memory : published) {
        if (from < memory.start || from >= memory.start + memory.content.size()) continue;
        memcpy(memory.content.data() + (from - memory.start), from, bytes);
    }
}

void hide_stores_of_block() {
    constexpr size_t kPiece = 4096;
    for (Published& memory : published) {
        for (size_t piece = 0; piece < memory.content.size(); piece += kPiece) {
            size_t bytes = std::min(kPiece, memory.content.size() - piece);
            if (memcmp(memory.start + piece, memory.content.data() + piece, bytes) == 0) continue;
            for (size_t i = piece; i < piece + bytes; i++) {
                if (memory.start[i] == memory.content[i]) continue;
                hidden.push_back({memory.start + i, memory.start[i]});
                memory.start[i] = memory.content[i];
            }
        }
    }
}

void end_late_stores() {
    for (const HiddenByte& byte : hidden) *byte.address = byte.value;
    hidden.clear();
    published.clear();
}

}  // namespace fake
