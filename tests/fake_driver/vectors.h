// CUDA's built-in vector types: the same fields, sizes and alignments as on the device.
#pragma once

#include <cstdint>

using uint = unsigned int;
using uchar = unsigned char;
using ushort = unsigned short;

#define FAKE_VECTORS(type, name, align2, align4)                                                                 \
    struct alignas(align2) name##2 { type x, y; };                                                               \
    struct name##3 { type x, y, z; };                                                                            \
    struct alignas(align4) name##4 { type x, y, z, w; };                                                         \
    constexpr name##2 make_##name##2(type x, type y) { return {x, y}; }                                          \
    constexpr name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                               \
    constexpr name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

FAKE_VECTORS(signed char, char, 2, 4)
FAKE_VECTORS(unsigned char, uchar, 2, 4)
FAKE_VECTORS(short, short, 4, 8)
FAKE_VECTORS(unsigned short, ushort, 4, 8)
FAKE_VECTORS(int, int, 8, 16)
FAKE_VECTORS(unsigned, uint, 8, 16)
FAKE_VECTORS(float, float, 8, 16)
FAKE_VECTORS(double, double, 16, 16)
FAKE_VECTORS(long long, longlong, 16, 16)
FAKE_VECTORS(unsigned long long, ulonglong, 16, 16)
#undef FAKE_VECTORS

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
