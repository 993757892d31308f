// Seven kernels to learn from, each one idea beyond the one before: from a PGD step with a thread an element to a
// convolution with tiles in shared memory and registers. No op launches them; `cargo run --example kernel_levels` runs
// them, checks their results and prints their bytes, FLOPs and floor. kernels/README.md, section "Levels", says which
// kernels of the project are built on which level.
//
// Edges are left out: sizes are multiples of the tiles. The project's kernels treat them, and the count of active rows.
#include "prelude.cuh"

// --- levels 1 and 2: elements that do not depend on each other (bound by memory) ---

__device__ __forceinline__ float clamp_between(float v, float low, float high) {
    return v < low ? low : v > high ? high : v;
}

// A PGD step in linf: along the sign of the gradient, then into the ball of radius eps around x, then into [0, 1].
__device__ __forceinline__ float pgd_step(float adv, float x, float dx, float eps, float step) {
    const float sign = static_cast<float>(dx > 0.0f) - static_cast<float>(dx < 0.0f);
    return clamp_between(clamp_between(adv + step * sign, x - eps, x + eps), 0.0f, 1.0f);
}

// Level 1. A thread an element of `adv` [images, pixels]. Neighbouring threads read neighbouring addresses, so that a
// warp's 32 loads are four transactions of 32 bytes each (coalescing).
//
// 16 bytes an element: adv, x and dx are read, adv is written. 8 FLOPs an element.
extern "C" __global__ void __launch_bounds__(THREADS)
    level1_pgd_step(float* __restrict__ adv, const float* __restrict__ x, const float* __restrict__ dx,
                    const float* __restrict__ eps, const float* __restrict__ step, int images, int pixels) {
    const long long i = global_thread();
    if (i >= static_cast<long long>(images) * pixels) return;
    const long long image = i / pixels;
    adv[i] = pgd_step(adv[i], x[i], dx[i], eps[image], step[image]);
}

// Level 2. Four elements a thread, read and written by one instruction each: a quarter of the threads, of the address
// arithmetic and of the load instructions, for the same bytes. Three loads of 16 bytes are in flight a thread.
extern "C" __global__ void __launch_bounds__(THREADS)
    level2_pgd_step_x4(float4* __restrict__ adv, const float4* __restrict__ x, const float4* __restrict__ dx,
                       const float* __restrict__ eps, const float* __restrict__ step, int images, int vectors) {
    const long long i = global_thread();
    if (i >= static_cast<long long>(images) * vectors) return;
    const long long image = i / vectors;
    const float e = eps[image], s = step[image];
    const float4 a = adv[i], c = x[i], d = dx[i];
    adv[i] = make_float4(pgd_step(a.x, c.x, d.x, e, s), pgd_step(a.y, c.y, d.y, e, s), pgd_step(a.z, c.z, d.z, e, s),
                         pgd_step(a.w, c.w, d.w, e, s));
}

// --- level 3: a sum over many elements ---

// Level 3. The sum of squares of each row of x [gridDim.x, pixels], a block a row. A thread sums every THREADS-th
// element, a warp adds its lanes' sums by shuffles, and the warps' sums meet in shared memory. The order depends on the
// shape alone: two runs give the same bits, which atomics would not.
//
// 4 bytes and 2 FLOPs an element.
extern "C" __global__ void __launch_bounds__(THREADS)
    level3_sum_of_squares(float* __restrict__ sums, const float* __restrict__ x, int pixels) {
    const float* row = x + static_cast<long long>(blockIdx.x) * pixels;
    float sum = 0.0f;
    for (int i = static_cast<int>(threadIdx.x); i < pixels; i += THREADS) sum = fmaf(row[i], row[i], sum);

    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(FULL_MASK, sum, lanes);
    SHARED(float, warps, [THREADS / WARP]);
    if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;  // no barrier follows
    float total = 0.0f;
    for (int warp = 0; warp < THREADS / WARP; ++warp) total += warps[warp];
    sums[blockIdx.x] = total;
}

// --- levels 4 to 6: out[i, j] = sum over k of a[i, k] b[k, j], 2 rows columns depth FLOPs (bound by arithmetic) ---

// Edge of the square tile of `out` that a block of level 5 computes, one thread an element.
constexpr int SMALL_TILE = 16;

// Level 4. A thread an element of `out`. Every thread reads a whole row of a and a whole column of b: 8 bytes for 2
// FLOPs, `SMALL_TILE` times as many bytes as level 5, and caches must serve them.
extern "C" __global__ void __launch_bounds__(THREADS)
    level4_product(float* __restrict__ out, const float* __restrict__ a, const float* __restrict__ b, int height,
                   int width, int depth) {
    const int column = static_cast<int>(global_thread() % width);
    const int row = static_cast<int>(global_thread() / width);
    if (row >= height) return;
    float sum = 0.0f;
    for (int k = 0; k < depth; ++k) sum = fmaf(a[row * depth + k], b[k * width + column], sum);
    out[row * width + column] = sum;
}

// Level 5. A block loads SMALL_TILE x SMALL_TILE elements of a and of b into shared memory, where each is read by
// SMALL_TILE threads: a SMALL_TILE-th of level 4's bytes from global memory. Two barriers a tile: one before it is
// read, one before it is overwritten. Shared memory now limits: still 8 bytes of it for 2 FLOPs.
extern "C" __global__ void __launch_bounds__(SMALL_TILE* SMALL_TILE)
    level5_product_tiled(float* __restrict__ out, const float* __restrict__ a, const float* __restrict__ b, int width,
                         int depth) {
    SHARED(float, a_tile, [SMALL_TILE][SMALL_TILE]);
    SHARED(float, b_tile, [SMALL_TILE][SMALL_TILE]);
    const int across = static_cast<int>(threadIdx.x) % SMALL_TILE, down = static_cast<int>(threadIdx.x) / SMALL_TILE;
    const int row = static_cast<int>(blockIdx.y) * SMALL_TILE + down;
    const int column = static_cast<int>(blockIdx.x) * SMALL_TILE + across;
    float sum = 0.0f;
    for (int k = 0; k < depth; k += SMALL_TILE) {
        a_tile[down][across] = a[row * depth + k + across];
        b_tile[down][across] = b[(k + down) * width + column];
        __syncthreads();
        for (int i = 0; i < SMALL_TILE; ++i) sum = fmaf(a_tile[down][i], b_tile[i][across], sum);
        __syncthreads();
    }
    out[row * width + column] = sum;
}

// Sizes of level 6: a block's tile of `out`, elements along k in shared memory at a time, edge of a thread tile.
constexpr int BLOCK_TILE = 64;
constexpr int TILE_DEPTH = 16;
constexpr int THREAD_TILE = 4;
constexpr int LEVEL_THREADS = BLOCK_TILE / THREAD_TILE * (BLOCK_TILE / THREAD_TILE);
// A thread loads one vector of four elements of each operand's tile.
static_assert(BLOCK_TILE * TILE_DEPTH == 4 * LEVEL_THREADS, "one vector of each operand a thread");

// Four neighbouring elements of a matrix a [.., depth]: row `row` from column k on.
struct MatrixRows {
    const float* a;
    int depth;

    __device__ __forceinline__ float4 load(int row, int k) const {
        return *reinterpret_cast<const float4*>(a + static_cast<long long>(row) * depth + k);
    }
};

// A product whose left operand comes from `loader`. Each thread holds a THREAD_TILE x THREAD_TILE part of `out` in
// registers: for each k it reads 2 THREAD_TILE elements of shared memory for 2 THREAD_TILE^2 FLOPs, so that 32 bytes of
// it serve 32 FLOPs. a's tile lies transposed, so that a thread's four rows are one load of 16 bytes.
template <class Loader>
__device__ __forceinline__ void product_of(float* __restrict__ out, const Loader& loader, const float* __restrict__ b,
                                           int width, int depth) {
    SHARED(float, a_tile, [TILE_DEPTH][BLOCK_TILE]);
    SHARED(float, b_tile, [TILE_DEPTH][BLOCK_TILE]);
    const int thread = static_cast<int>(threadIdx.x);
    const int first_row = static_cast<int>(blockIdx.y) * BLOCK_TILE;
    const int first_column = static_cast<int>(blockIdx.x) * BLOCK_TILE;
    // The vector that this thread loads: of a along k, of b along its columns.
    const int a_row = thread / (TILE_DEPTH / 4), a_k = thread % (TILE_DEPTH / 4) * 4;
    const int b_k = thread / (BLOCK_TILE / 4), b_column = thread % (BLOCK_TILE / 4) * 4;
    // The thread tile.
    const int row = thread / (BLOCK_TILE / THREAD_TILE) * THREAD_TILE;
    const int column = thread % (BLOCK_TILE / THREAD_TILE) * THREAD_TILE;
    float sums[THREAD_TILE][THREAD_TILE] = {};

    for (int k = 0; k < depth; k += TILE_DEPTH) {
        const float4 from_a = loader.load(first_row + a_row, k + a_k);
        a_tile[a_k + 0][a_row] = from_a.x;
        a_tile[a_k + 1][a_row] = from_a.y;
        a_tile[a_k + 2][a_row] = from_a.z;
        a_tile[a_k + 3][a_row] = from_a.w;
        *reinterpret_cast<float4*>(&b_tile[b_k][b_column]) =
            *reinterpret_cast<const float4*>(b + static_cast<long long>(k + b_k) * width + first_column + b_column);
        __syncthreads();
        for (int i = 0; i < TILE_DEPTH; ++i) {
            const float4 rows4 = *reinterpret_cast<const float4*>(&a_tile[i][row]);
            const float4 columns4 = *reinterpret_cast<const float4*>(&b_tile[i][column]);
            const float left[] = {rows4.x, rows4.y, rows4.z, rows4.w};
            const float right[] = {columns4.x, columns4.y, columns4.z, columns4.w};
#pragma unroll
            for (int r = 0; r < THREAD_TILE; ++r) {
#pragma unroll
                for (int c = 0; c < THREAD_TILE; ++c) sums[r][c] = fmaf(left[r], right[c], sums[r][c]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < THREAD_TILE; ++r) {
        float* to = out + static_cast<long long>(first_row + row + r) * width + first_column + column;
        *reinterpret_cast<float4*>(to) = make_float4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
    }
}

// Level 6. Thread tiles: of the elements that shared memory serves, each is used THREAD_TILE times from a register.
extern "C" __global__ void __launch_bounds__(LEVEL_THREADS)
    level6_product_thread_tile(float* __restrict__ out, const float* __restrict__ a, const float* __restrict__ b,
                               int width, int depth) {
    product_of(out, MatrixRows{a, depth}, b, width, depth);
}

// --- level 7: a convolution is that product ---

// Edge of the filters, and pixels of padding that keep an image's size.
constexpr int FILTER = 3;
constexpr int FILTER_PADDING = FILTER / 2;

// Rows of the matrix that a convolution multiplies: row (image, y, x) holds the FILTER x FILTER window around that
// pixel, its taps one after another, `channels` numbers each. The matrix would be FILTER^2 times as large as the images
// and is never written: a tile's elements are read from the images, [.., size, size, channels]. As `channels` is a
// multiple of four, a vector lies within one tap.
struct ImageWindows {
    const float* images;
    int size, channels;

    __device__ __forceinline__ float4 load(int row, int k) const {
        const int tap = k / channels, channel = k % channels;
        const int x = row % size + tap % FILTER - FILTER_PADDING;
        const int y = row / size % size + tap / FILTER - FILTER_PADDING;
        if (x < 0 || x >= size || y < 0 || y >= size) return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        const long long pixel = static_cast<long long>(row / (size * size)) * size * size + y * size + x;
        return *reinterpret_cast<const float4*>(images + pixel * channels + channel);
    }
};

// Level 7. Level 6 with another tile loader: an implicit matrix product. `weights` is [FILTER, FILTER, channels,
// filters]. Floor and bytes: those of the product of its sizes, but for the windows, of which only the images are read.
extern "C" __global__ void __launch_bounds__(LEVEL_THREADS)
    level7_convolution(float* __restrict__ out, const float* __restrict__ images, const float* __restrict__ weights,
                       int filters, int size, int channels) {
    product_of(out, ImageWindows{images, size, channels}, weights, filters, FILTER * FILTER * channels);
}
