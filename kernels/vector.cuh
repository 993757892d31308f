// One function applied to each of a thread's numbers: one number, or a vector that is read and written at once. A
// kernel's formula is written once, for one number. In memory a number is a float or a half, in registers a float.
#pragma once

#include "ptx.cuh"

// A number in half precision, in memory.
struct Half {
    unsigned short bits;
};

// Vectors of halves in memory.
struct alignas(8) Half4 {
    Half numbers[4];
};
struct alignas(16) Half8 {
    Half numbers[8];
};

// Eight numbers in registers, or eight floats in memory.
struct Float8 {
    float4 low, high;
};

template <typename F, typename... In>
__device__ __forceinline__ float each(F f, float first, In... rest) {
    return f(first, rest...);
}

template <typename F, typename... In>
__device__ __forceinline__ float4 each(F f, float4 first, In... rest) {
    return make_float4(f(first.x, rest.x...), f(first.y, rest.y...), f(first.z, rest.z...), f(first.w, rest.w...));
}

template <typename F, typename... In>
__device__ __forceinline__ Float8 each(F f, Float8 first, In... rest) {
    return {each(f, first.low, rest.low...), each(f, first.high, rest.high...)};
}

// Sum of `f` over the numbers, in double precision and in their order.
template <typename F, typename... In>
__device__ __forceinline__ double sum_each(F f, float first, In... rest) {
    return f(first, rest...);
}

template <typename F, typename... In>
__device__ __forceinline__ double sum_each(F f, float4 first, In... rest) {
    return f(first.x, rest.x...) + f(first.y, rest.y...) + f(first.z, rest.z...) + f(first.w, rest.w...);
}

// Arrays of VECTOR numbers, read or written at once.
template <int VECTOR>
__device__ __forceinline__ void load_vector(float (&to)[VECTOR], const float* from) {
    static_assert(VECTOR == 1 || VECTOR % 4 == 0);
    if constexpr (VECTOR == 1) {
        to[0] = *from;
    } else {
#pragma unroll
        for (int v = 0; v < VECTOR; v += 4) {
            const float4 four = *reinterpret_cast<const float4*>(from + v);
            to[v] = four.x, to[v + 1] = four.y, to[v + 2] = four.z, to[v + 3] = four.w;
        }
    }
}

template <int VECTOR>
__device__ __forceinline__ void load_vector(float (&to)[VECTOR], const Half* from) {
    static_assert(VECTOR == 1 || VECTOR == 4 || VECTOR == 8);
    const auto set_pair = [&](int v, unsigned pair) {
        to[v] = float_of(static_cast<unsigned short>(pair & 0xffff));
        to[v + 1] = float_of(static_cast<unsigned short>(pair >> 16));
    };
    if constexpr (VECTOR == 1) {
        to[0] = float_of(from->bits);
    } else if constexpr (VECTOR == 4) {
        const uint2 pairs = *reinterpret_cast<const uint2*>(from);
        set_pair(0, pairs.x), set_pair(2, pairs.y);
    } else {
        const uint4 pairs = *reinterpret_cast<const uint4*>(from);
        set_pair(0, pairs.x), set_pair(2, pairs.y), set_pair(4, pairs.z), set_pair(6, pairs.w);
    }
}

// Loads, or sets zeros if not `live`. A predicated load costs less than a branch around the address arithmetic.
template <int VECTOR, class Element>
__device__ __forceinline__ void load_if(bool live, float (&to)[VECTOR], const Element* from) {
    for (int v = 0; v < VECTOR; ++v) to[v] = 0.0f;
    if (live) load_vector(to, from);
}

template <int VECTOR>
__device__ __forceinline__ void store_vector(float* to, const float (&from)[VECTOR]) {
    static_assert(VECTOR == 1 || VECTOR % 4 == 0);
    if constexpr (VECTOR == 1) {
        *to = from[0];
    } else {
#pragma unroll
        for (int v = 0; v < VECTOR; v += 4) {
            *reinterpret_cast<float4*>(to + v) = make_float4(from[v], from[v + 1], from[v + 2], from[v + 3]);
        }
    }
}

// Rounds to the nearest half.
template <int VECTOR>
__device__ __forceinline__ void store_vector(Half* to, const float (&from)[VECTOR]) {
    static_assert(VECTOR == 1 || VECTOR == 4 || VECTOR == 8);
    const auto pair = [&](int v) { return half_pair_of(from[v], from[v + 1]); };
    if constexpr (VECTOR == 1) {
        to->bits = half_of(from[0]);
    } else if constexpr (VECTOR == 4) {
        *reinterpret_cast<uint2*>(to) = make_uint2(pair(0), pair(2));
    } else {
        *reinterpret_cast<uint4*>(to) = make_uint4(pair(0), pair(2), pair(4), pair(6));
    }
}

// Stores bytes, as one word where there are four or eight.
template <int VECTOR>
__device__ __forceinline__ void store_bytes(unsigned char* to, const unsigned char (&from)[VECTOR]) {
    static_assert(VECTOR == 1 || VECTOR % 4 == 0);
    if constexpr (VECTOR == 1) {
        *to = from[0];
    } else {
#pragma unroll
        for (int v = 0; v < VECTOR; v += 4) {
            *reinterpret_cast<uchar4*>(to + v) = make_uchar4(from[v], from[v + 1], from[v + 2], from[v + 3]);
        }
    }
}

// Reads one number or a vector from memory.
__device__ __forceinline__ float read(const float& from) { return from; }
__device__ __forceinline__ float4 read(const float4& from) { return from; }

template <int VECTOR>
__device__ __forceinline__ float4 four_of(const float (&numbers)[VECTOR], int first) {
    return make_float4(numbers[first], numbers[first + 1], numbers[first + 2], numbers[first + 3]);
}

__device__ __forceinline__ float read(const Half& from) { return float_of(from.bits); }
__device__ __forceinline__ float4 read(const Half4& from) {
    float numbers[4];
    load_vector(numbers, from.numbers);
    return four_of(numbers, 0);
}
__device__ __forceinline__ Float8 read(const Half8& from) {
    float numbers[8];
    load_vector(numbers, from.numbers);
    return {four_of(numbers, 0), four_of(numbers, 4)};
}

// Writes one number or a vector to memory, rounded to the nearest half where memory has halves.
__device__ __forceinline__ void write(float& to, float from) { to = from; }
__device__ __forceinline__ void write(float4& to, float4 from) { to = from; }
__device__ __forceinline__ void write(Half& to, float from) { to.bits = half_of(from); }
__device__ __forceinline__ void write(Half4& to, float4 from) {
    const float numbers[4] = {from.x, from.y, from.z, from.w};
    store_vector(to.numbers, numbers);
}
__device__ __forceinline__ void write(Half8& to, Float8 from) {
    const float numbers[8] = {from.low.x,  from.low.y,  from.low.z,  from.low.w,
                              from.high.x, from.high.y, from.high.z, from.high.w};
    store_vector(to.numbers, numbers);
}

// Pixels as numbers in [0, 1]. A division, because a product with 1/255 would round twice.
__device__ __forceinline__ float byte_to_unit(unsigned char byte) { return static_cast<float>(byte) / 255.0f; }
__device__ __forceinline__ float4 byte_to_unit(uchar4 b) {
    return make_float4(byte_to_unit(b.x), byte_to_unit(b.y), byte_to_unit(b.z), byte_to_unit(b.w));
}
