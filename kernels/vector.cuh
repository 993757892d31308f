// One function applied to each of a thread's numbers: one number, or a vector of four that is read and written at once.
// A kernel's formula is written once, for one number.
#pragma once

template <typename F, typename... In>
__device__ __forceinline__ float each(F f, float first, In... rest) {
    return f(first, rest...);
}

template <typename F, typename... In>
__device__ __forceinline__ float4 each(F f, float4 first, In... rest) {
    return make_float4(f(first.x, rest.x...), f(first.y, rest.y...), f(first.z, rest.z...), f(first.w, rest.w...));
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
    if constexpr (VECTOR == 4) {
        const float4 four = *reinterpret_cast<const float4*>(from);
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
    } else {
        to[0] = *from;
    }
}

// Loads, or sets zeros if not `live`. A predicated load costs less than a branch around the address arithmetic.
template <int VECTOR>
__device__ __forceinline__ void load_if(bool live, float (&to)[VECTOR], const float* from) {
    for (int v = 0; v < VECTOR; ++v) to[v] = 0.0f;
    if (live) load_vector(to, from);
}

template <int VECTOR>
__device__ __forceinline__ void store_vector(float* to, const float (&from)[VECTOR]) {
    if constexpr (VECTOR == 4) {
        *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
    } else {
        *to = from[0];
    }
}
