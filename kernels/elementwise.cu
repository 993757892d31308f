// Ops that touch each element once. `count` is the elements of a row, `capacity` the rows there is room for.
//
// Four elements a thread where a row's elements and all addresses allow it (the `4` kernels), else one.
#include "prelude.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    fill(float* __restrict__ out, float value, const unsigned* rows, int capacity, int row) {
    const long long i = global_thread();
    if (i < static_cast<long long>(active_rows(rows, capacity)) * row) out[i] = value;
}
