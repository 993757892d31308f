// One function applied to each of the numbers that a thread holds: one number, or four that are read and written at
// once. A kernel's formula is written once, for one number.
#pragma once

template <typename F, typename... In>
__device__ __forceinline__ float each(F f, float first, In... rest) {
    return f(first, rest...);
}

template <typename F, typename... In>
__device__ __forceinline__ float4 each(F f, float4 first, In... rest) {
    return make_float4(f(first.x, rest.x...), f(first.y, rest.y...), f(first.z, rest.z...), f(first.w, rest.w...));
}

// The sum of `f` over the numbers, in double precision and in their order.
template <typename F, typename... In>
__device__ __forceinline__ double sum_each(F f, float first, In... rest) {
    return f(first, rest...);
}

template <typename F, typename... In>
__device__ __forceinline__ double sum_each(F f, float4 first, In... rest) {
    return f(first.x, rest.x...) + f(first.y, rest.y...) + f(first.z, rest.z...) + f(first.w, rest.w...);
}
