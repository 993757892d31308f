// Whole images: standardization, the mean over pixels, augmentation.
#include "head.cuh"
#include "prelude.cuh"
#include "random.cuh"
#include "standardize.cuh"
#include "vector.cuh"

// --- standardization: a block an image; all passes but the first read it from a cache ---

// y = (x - mean) / deviation, and the deviation. `width` counts an image's numbers, or its vectors of four. Sums are in
// double precision. 8 bytes a number: 3.1 MB at batch 128 of 32 x 32 x 3, 1.0 us. 6 FLOPs a number, four in double.
template <typename V>
__device__ __forceinline__ void standardize_of(V* __restrict__ y, float* __restrict__ deviation,
                                               const V* __restrict__ x, const unsigned* rows, int capacity, int width) {
    const int row = static_cast<int>(blockIdx.x), elements = width * static_cast<int>(sizeof(V) / sizeof(float));
    if (row >= active_rows(rows, capacity)) return;
    const V* from = x + static_cast<size_t>(row) * width;
    V* to = y + static_cast<size_t>(row) * width;
    const auto sum_of = [=](auto f) {
        double sum = 0.0;
        for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) sum += sum_each(f, from[at]);
        return sum;
    };
    const Standardization standard(sum_of, elements);
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) to[at] = each(standard, from[at]);
    if (threadIdx.x == 0) deviation[row] = standard.divisor;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    standardize(float* __restrict__ y, float* __restrict__ deviation, const float* __restrict__ x,
                const unsigned* __restrict__ rows, int capacity, int width) {
    standardize_of(y, deviation, x, rows, capacity, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    standardize_x4(float4* __restrict__ y, float* __restrict__ deviation, const float4* __restrict__ x,
                   const unsigned* __restrict__ rows, int capacity, int width) {
    standardize_of(y, deviation, x, rows, capacity, width);
}

// dx = (dy - mean(dy) - y sum(dy y) / (elements - 1)) / deviation; the last term is 0 if the deviation is its lower
// limit. 12 bytes a number: 4.7 MB at batch 128, 1.6 us. 9 FLOPs a number, three in double.
template <typename V>
__device__ __forceinline__ void standardize_backward_of(V* __restrict__ dx, const V* __restrict__ dy,
                                                        const V* __restrict__ y, const float* __restrict__ deviation,
                                                        const unsigned* rows, int capacity, int width) {
    const int row = static_cast<int>(blockIdx.x), elements = width * static_cast<int>(sizeof(V) / sizeof(float));
    if (row >= active_rows(rows, capacity)) return;
    const size_t start = static_cast<size_t>(row) * width;
    double sum = 0.0, products = 0.0;
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
        sum += sum_each([](float dy) { return static_cast<double>(dy); }, dy[start + at]);
        products += sum_each(product_in_double, dy[start + at], y[start + at]);
    }
    const StandardizedGradient gradient(sum, products, deviation[row], elements);
#pragma unroll 1
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
        dx[start + at] = each(gradient, dy[start + at], y[start + at]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    standardize_backward(float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ y,
                         const float* __restrict__ deviation, const unsigned* __restrict__ rows, int capacity,
                         int width) {
    standardize_backward_of(dx, dy, y, deviation, rows, capacity, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    standardize_backward_x4(float4* __restrict__ dx, const float4* __restrict__ dy, const float4* __restrict__ y,
                            const float* __restrict__ deviation, const unsigned* __restrict__ rows, int capacity,
                            int width) {
    standardize_backward_of(dx, dy, y, deviation, rows, capacity, width);
}

// --- the mean over pixels ---

// out [n, c] from x [n, pixels, c]. A thread a result, which adds the pixels in order. 4 bytes a number of x: 8.4 MB at
// batch 128 of 8 x 8 x 256, 2.8 us; of halves 4.2 MB, 1.4 us.
template <class Element>
__device__ __forceinline__ void global_mean_of(float* out, const Element* x, const unsigned* rows, int capacity,
                                               int pixels, int c) {
    const long long i = global_thread();
    if (i >= static_cast<long long>(active_rows(rows, capacity)) * c) return;
    const Element* from = x + i / c * pixels * c + i % c;
    out[i] = mean_of_pixels(from, pixels, c);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    global_mean(float* __restrict__ out, const float* __restrict__ x, const unsigned* __restrict__ rows, int capacity,
                int pixels, int c) {
    global_mean_of(out, x, rows, capacity, pixels, c);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    global_mean_from_half(float* __restrict__ out, const Half* __restrict__ x, const unsigned* __restrict__ rows,
                          int capacity, int pixels, int c) {
    global_mean_of(out, x, rows, capacity, pixels, c);
}

// dx [n, pixels, c] from dy [n, c], which is read again for each pixel. `width` counts channels, or vectors. 4 bytes a
// number of dx: 8.4 MB, 2.8 us; as halves 4.2 MB, 1.4 us. In memory M is a float, a half or a vector; V is the same of
// floats.
template <typename M, typename V>
__device__ __forceinline__ void global_mean_backward_of(M* __restrict__ dx, const V* __restrict__ dy,
                                                        const unsigned* rows, int capacity, int pixels, int width) {
    const long long i = global_thread(), row = static_cast<long long>(pixels) * width;
    if (i >= active_rows(rows, capacity) * row) return;
    const float count = static_cast<float>(pixels);
    write(dx[i], each([=](float dy) { return dy / count; }, dy[i / row * width + i % width]));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    global_mean_backward(float* __restrict__ dx, const float* __restrict__ dy, const unsigned* __restrict__ rows,
                         int capacity, int pixels, int width) {
    global_mean_backward_of(dx, dy, rows, capacity, pixels, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    global_mean_backward_x4(float4* __restrict__ dx, const float4* __restrict__ dy, const unsigned* __restrict__ rows,
                            int capacity, int pixels, int width) {
    global_mean_backward_of(dx, dy, rows, capacity, pixels, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    global_mean_backward_to_half(Half* __restrict__ dx, const float* __restrict__ dy,
                                 const unsigned* __restrict__ rows, int capacity, int pixels, int width) {
    global_mean_backward_of(dx, dy, rows, capacity, pixels, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    global_mean_backward_to_half_x8(Half8* __restrict__ dx, const Float8* __restrict__ dy,
                                    const unsigned* __restrict__ rows, int capacity, int pixels, int width) {
    global_mean_backward_of(dx, dy, rows, capacity, pixels, width);
}

// --- augmentation: 0.8 MB at batch 128 of 32 x 32 x 3 bytes, 0.3 us: less than a launch ---

// choice [n, 3]: first row and first column of the crop, of an image padded by `reach` pixels, and 1 if it is mirrored.
// A thread an example. The bits are those of `philox` in src/rng.rs.
extern "C" __global__ void __launch_bounds__(THREADS)
    draw_augmentation(unsigned* __restrict__ choice, const unsigned* __restrict__ step,
                      const unsigned* __restrict__ index, unsigned seed_low, unsigned seed_high, unsigned purpose,
                      unsigned reach, const unsigned* __restrict__ rows, int capacity) {
    const long long i = global_thread();
    if (i >= active_rows(rows, capacity)) return;
    const uint4 words = philox4x32_10(make_uint4(0, index[i], *step, purpose), make_uint2(seed_low, seed_high));
    choice[3 * i] = __umulhi(words.x, 2 * reach + 1);
    choice[3 * i + 1] = __umulhi(words.y, 2 * reach + 1);
    choice[3 * i + 2] = __umulhi(words.z, 2);
}

// Pixel at `at` of a line of `size` pixels with reflection padding of `reach` pixels: the edge is not repeated.
__device__ __forceinline__ int reflected(int at, int reach, int size) {
    const int inside = at < reach ? reach - at : at - reach;
    return inside < size ? inside : 2 * (size - 1) - inside;
}

// out [n, h, w, c]: images src[index[i]], cropped and mirrored by `choice`. A thread a byte, so a warp writes 32
// adjacent bytes, and reads 32 adjacent ones except at an edge.
extern "C" __global__ void __launch_bounds__(THREADS)
    gather_augmented(unsigned char* __restrict__ out, const unsigned char* __restrict__ src,
                     const unsigned* __restrict__ index, const unsigned* __restrict__ choice, int reach,
                     const unsigned* __restrict__ rows, int capacity, int h, int w, int c) {
    const long long i = global_thread(), image = static_cast<long long>(h) * w * c;
    if (i >= active_rows(rows, capacity) * image) return;
    const long long row = i / image;
    const int at = static_cast<int>(i % image), channel = at % c, x = at / c % w, y = at / c / w;
    const unsigned* chosen = choice + 3 * row;
    const int from_y = reflected(y + static_cast<int>(chosen[0]), reach, h);
    const int from_x = reflected((chosen[2] == 1 ? w - 1 - x : x) + static_cast<int>(chosen[1]), reach, w);
    out[i] = src[index[row] * image + (static_cast<long long>(from_y) * w + from_x) * c + channel];
}
