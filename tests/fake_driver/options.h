// Options of the fake driver: a text of `key=value;key=value`, from FAKE_CUDA or fake_cuda_set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "api.h"

namespace fake {

enum class Order { forward, reversed, random };
struct Schedule {
    Order order = Order::forward;
    uint64_t seed = 0;
};

struct Options {
    Schedule threads, blocks;
    bool copies_late = false;         // cp.async copies at the wait instead of at issue
    bool stores_late = false;         // stores become visible to other blocks at a fence, or when the launch ends
    bool guard_end = false;           // allocations end at a guard page instead of beginning after one
    size_t memory = size_t(80) << 30;
    long fail_alloc = 0;              // allocations until one fails; 0: none will
    long fail_launch = 0;             // kernels until one fails; 0: none will
    int devices = 1;
    int driver = 13000;
    int major = 9, minor = 0;
    size_t shared = kSharedOptIn;     // bytes of shared memory that a block may have
    int workers = 0;                  // 0: one a core
};
extern Options options;

// Parses options; returns the error message, or an empty text.
std::string set_options(const char* text);

// Appends a line to the log: a call of the driver, or the report of a failure.
void log(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Appends a line to the log and prints it to stderr.
void report(const std::string& line);

std::string format(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Pseudo-random numbers, equal on every machine.
inline uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
}

// Order of `n` threads or blocks.
template <class Index>
void arrange(Index* order, size_t n, const Schedule& schedule, uint64_t salt) {
    for (size_t i = 0; i < n; i++) order[i] = Index(schedule.order == Order::reversed ? n - 1 - i : i);
    if (schedule.order != Order::random) return;
    uint64_t state = mix(schedule.seed) ^ salt;
    for (size_t i = n; i > 1; i--) {
        size_t j = mix(state + i) % i;
        Index swapped = order[j];
        order[j] = order[i - 1];
        order[i - 1] = swapped;
    }
}

}  // namespace fake
