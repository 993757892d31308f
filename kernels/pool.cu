// 2 x 2 max-pooling alone.
//
// Both are bound by memory: bytes of each operand once, at 3 TB/s. An output and its window are 21 bytes; on halves 11.
#include "prelude.cuh"
#include "vector.cuh"

// Offset in x of the first element of output `at`'s window. A row of the output has `columns` by `c` elements.
__device__ __forceinline__ long long window(long long at, int columns, int c) {
    const long long cell = at / c, channel = at - cell * c, y = cell / columns, x = cell - y * columns;
    return (4 * y * columns + 2 * x) * c + channel;  // an output row is two input rows of 2 columns each
}

// out, choice [n, h/2, w/2, c] from x [n, h, w, c]; `row` is the number of outputs of an image, `columns` is w/2. The
// first of equal elements is chosen.
template <class Element>
__device__ __forceinline__ void max_pool2d_of(Element* out, unsigned char* choice, const Element* x,
                                              const unsigned* rows, int capacity, int row, int columns, int c) {
    const long long at = global_thread();
    if (at >= static_cast<long long>(active_rows(rows, capacity)) * row) return;
    const Element* upper = x + window(at, columns, c);
    const Element* lower = upper + 2 * static_cast<long long>(columns) * c;
    const float values[4] = {read(upper[0]), read(upper[c]), read(lower[0]), read(lower[c])};
    float most = values[0];
    int place = 0;
    for (int i = 1; i < 4; ++i) {
        const bool more = values[i] > most;
        most = more ? values[i] : most;
        place = more ? i : place;
    }
    write(out[at], most);
    choice[at] = static_cast<unsigned char>(place);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    max_pool2d(float* __restrict__ out, unsigned char* __restrict__ choice, const float* __restrict__ x,
               const unsigned* __restrict__ rows, int capacity, int row, int columns, int c) {
    max_pool2d_of(out, choice, x, rows, capacity, row, columns, c);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    max_pool2d_half(Half* __restrict__ out, unsigned char* __restrict__ choice, const Half* __restrict__ x,
                    const unsigned* __restrict__ rows, int capacity, int row, int columns, int c) {
    max_pool2d_of(out, choice, x, rows, capacity, row, columns, c);
}

// dx [n, h, w, c] from dy, choice [n, h/2, w/2, c]: a thread writes the four elements of a window.
template <class Element>
__device__ __forceinline__ void max_pool2d_backward_of(Element* dx, const Element* dy, const unsigned char* choice,
                                                       const unsigned* rows, int capacity, int row, int columns,
                                                       int c) {
    const long long at = global_thread();
    if (at >= static_cast<long long>(active_rows(rows, capacity)) * row) return;
    Element* upper = dx + window(at, columns, c);
    Element* lower = upper + 2 * static_cast<long long>(columns) * c;
    const float gradient = read(dy[at]);
    const int place = choice[at];
    write(upper[0], place == 0 ? gradient : 0.0f);
    write(upper[c], place == 1 ? gradient : 0.0f);
    write(lower[0], place == 2 ? gradient : 0.0f);
    write(lower[c], place == 3 ? gradient : 0.0f);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    max_pool2d_backward(float* __restrict__ dx, const float* __restrict__ dy, const unsigned char* __restrict__ choice,
                        const unsigned* __restrict__ rows, int capacity, int row, int columns, int c) {
    max_pool2d_backward_of(dx, dy, choice, rows, capacity, row, columns, c);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    max_pool2d_backward_half(Half* __restrict__ dx, const Half* __restrict__ dy,
                             const unsigned char* __restrict__ choice, const unsigned* __restrict__ rows, int capacity,
                             int row, int columns, int c) {
    max_pool2d_backward_of(dx, dy, choice, rows, capacity, row, columns, c);
}
