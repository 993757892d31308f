// 3 x 3 convolution of halves with stride 1 and padding 1 on tensor cores, for images of 32, 16 or 8 pixels' width.
//
// An implicit GEMM (gemm_half.cuh) reads each pixel from the L2 cache for every one of the nine taps: 9 x 17 MB for 64
// channels of 32 x 32 pixels at a batch of 128, 27 us at 5.5 TB/s, as long as the products take. Here a block loads the
// pixels that its results need into shared memory once: a patch, whose pixels beyond the image are zero. The nine taps
// are nine shifted views of it: ldmatrix takes the address of every row. So an operand is read 1.3 times.
//
// A block computes PIXELS results by HALO_COLUMNS filters, a warp 64 by 64. The sum goes through the channels, 64 at a
// time, and for each through the taps. The patch has two buffers: while the taps of one are multiplied, copies into the
// other are pending. Filters come through HALO_STAGES stages of [HALO_COLUMNS][64] halves, one a tap. After the taps,
// a block's shortcut adds terms: its pixels fill a buffer without a border.
//
// A line of 64 halves, a cell of the patch or a filter, is 128 bytes. Its eight 16-byte chunks have the order
// c ^ (line % 8), so that eight lines of one chunk lie in different banks, also if the lines are shifted.
#pragma once

#include "gemm_half.cuh"

constexpr int HALO_STAGES = 3;
constexpr int HALO_TAPS = 9;
// Channels of a step.
constexpr int HALO_DEPTH = 64, HALO_CHUNKS = HALO_DEPTH / CHUNK;
// Steps over which the next patch is loaded. Later copies would not have arrived at its first step.
constexpr int HALO_LOADING_STEPS = HALO_TAPS - (HALO_STAGES - 1);

// Results of a block: IMAGES images of ROWS rows of WIDTH pixels, adjacent in memory.
template <int WIDTH_, int ROWS_, int IMAGES_>
struct HaloShape {
    static constexpr int WIDTH = WIDTH_, ROWS = ROWS_, IMAGES = IMAGES_, VECTOR = CHUNK;
    static constexpr int PIXELS = WIDTH * ROWS * IMAGES, WARPS = PIXELS / HALO_DEPTH, THREADS = WARPS * WARP;
    static constexpr int PATCH_WIDTH = WIDTH + 2, PATCH_ROWS = ROWS + 2;
    static constexpr int CELLS = IMAGES * PATCH_ROWS * PATCH_WIDTH;
    static_assert(WARPS * HALO_DEPTH == PIXELS && PIXELS <= CELLS);
};
using Halo32 = HaloShape<32, HALO_PIXELS_32 / 32, 1>;
using Halo16 = HaloShape<16, HALO_PIXELS_16 / 16, 1>;
using Halo8 = HaloShape<8, 8, HALO_PIXELS_8 / 64>;

// Place of a chunk of a line, in halves.
__device__ __forceinline__ int halo_place(int line, int chunk) {
    return line * HALO_DEPTH + (chunk ^ line % HALO_CHUNKS) * CHUNK;
}

// A block's part of the convolution: what it copies, and the sums of its warps.
template <class H>
struct HaloBlock {
    static constexpr int DOWN = 4, ACROSS = HALO_COLUMNS / 8;  // fragments of a warp
    const ConvShape& s;
    const Shortcut& shortcut;
    const Half *x, *w;
    int first, pixels, column0;  // first pixel of the block, active pixels of the batch, first filter
    Half *filters, *patches;     // [HALO_STAGES][HALO_COLUMNS][64], [2][CELLS][64]

    // Groups of 64 channels: those of x, then those of the shortcut.
    __device__ int own_groups() const { return s.c / HALO_DEPTH; }
    __device__ int groups() const { return own_groups() + ceil_div(shortcut.shape.channels, HALO_DEPTH); }
    __device__ int steps() const { return own_groups() * (HALO_TAPS - 1) + groups(); }

    __device__ Half* patch(int group) const { return patches + group % 2 * (H::CELLS * HALO_DEPTH); }
    __device__ Half* stage(int step) const { return filters + step % HALO_STAGES * (HALO_COLUMNS * HALO_DEPTH); }

    // Starts copying this thread's share of part `part` of `parts` of a group's pixels.
    __device__ void load_pixels(int group, int part, int parts) const {
        const bool own = group < own_groups();
        const int items = (own ? H::CELLS : H::PIXELS) * HALO_CHUNKS;
        const int each = ceil_div(items, parts * H::THREADS) * H::THREADS;
        for (int i = part * each + threadIdx.x; i < min(items, (part + 1) * each); i += H::THREADS) {
            const int line = i / HALO_CHUNKS, chunk = i % HALO_CHUNKS;
            const ElementAddress<Half> from = own ? cell(line, group * HALO_DEPTH + chunk * CHUNK)
                                                  : other_pixel(line, (group - own_groups()) * HALO_DEPTH + chunk * CHUNK);
            cp_async_16(patch(group) + halo_place(line, chunk), from.live ? from.from : x, from.live);
        }
    }

    // Channels of a cell of the patch.
    __device__ ElementAddress<Half> cell(int line, int channel) const {
        const int image = line / (H::PATCH_ROWS * H::PATCH_WIDTH), row = line / H::PATCH_WIDTH % H::PATCH_ROWS;
        const int at_x = line % H::PATCH_WIDTH - 1, at_y = first / H::WIDTH % s.h + row - 1;
        const int pixel = first + image * (H::ROWS * H::WIDTH) + (row - 1) * H::WIDTH + at_x;
        const bool inside = static_cast<unsigned>(at_y) < static_cast<unsigned>(s.h) &&
                            static_cast<unsigned>(at_x) < static_cast<unsigned>(H::WIDTH);
        return {x + static_cast<long long>(pixel) * s.c + channel, inside && pixel < pixels};
    }

    // Channels of the shortcut's pixel for a result.
    __device__ ElementAddress<Half> other_pixel(int line, int channel) const {
        const auto [h, w, channels, stride] = shortcut.shape;
        const int pixel = first + line, row = pixel / H::WIDTH, image = row / s.h;
        const long long at = (static_cast<long long>(image) * h + (row - image * s.h) * stride) * w +
                             pixel % H::WIDTH * stride;
        return {reinterpret_cast<const Half*>(shortcut.x) + at * channels + channel,
                pixel < pixels && channel < channels};
    }

    // Starts copying the filters of a step.
    __device__ void load_filters(int step) const {
        const int own = own_groups() * HALO_TAPS, channels = shortcut.shape.channels;
        for (int i = threadIdx.x; i < HALO_COLUMNS * HALO_CHUNKS; i += H::THREADS) {
            const int line = i / HALO_CHUNKS, chunk = i % HALO_CHUNKS, filter = column0 + column_of_line(line);
            const Half* from;
            bool live = true;
            if (step < own) {
                const int group = step / HALO_TAPS, tap = step % HALO_TAPS;
                from = w + (static_cast<size_t>(filter) * HALO_TAPS + tap) * s.c + group * HALO_DEPTH + chunk * CHUNK;
            } else {
                const int channel = (step - own) * HALO_DEPTH + chunk * CHUNK;
                live = channel < channels;
                from = reinterpret_cast<const Half*>(shortcut.filters) + static_cast<size_t>(filter) * channels + channel;
            }
            cp_async_16(stage(step) + halo_place(line, chunk), live ? from : w, live);
        }
    }

    // Line of the patch that a pixel of the block has for the first tap.
    __device__ static int first_cell(int pixel) {
        const int image = pixel / (H::ROWS * H::WIDTH), rest = pixel % (H::ROWS * H::WIDTH);
        return (image * H::PATCH_ROWS + rest / H::WIDTH) * H::PATCH_WIDTH + rest % H::WIDTH;
    }

    // Adds the products of a step: of 64 channels of the pixels at `lines`, one a fragment of 16 pixels.
    __device__ void multiply(
        float (&sums)[DOWN][ACROSS][4], const Half* pixels_at, const int (&lines)[DOWN], const Half* filters_at) const {
        const int lane = threadIdx.x % WARP, filter = lane / 16 * 8 + lane % 8;
        int a_at[DOWN], b_at[ACROSS / 2];
#pragma unroll
        for (int i = 0; i < DOWN; ++i) a_at[i] = halo_place(lines[i], lane / 16);
#pragma unroll
        for (int i = 0; i < ACROSS / 2; ++i) b_at[i] = halo_place(16 * i + filter, lane / 8 % 2);
#pragma unroll
        for (int k = 0; k < HALO_DEPTH; k += 16) {
            // A line begins at a multiple of 64 halves, so the next chunks' places differ by an exclusive or.
            unsigned a[DOWN][4], b[ACROSS][2];
#pragma unroll
            for (int i = 0; i < DOWN; ++i) ldmatrix_x4(a[i], pixels_at + (a_at[i] ^ k));
#pragma unroll
            for (int i = 0; i < ACROSS / 2; ++i) {
                unsigned two[4];
                ldmatrix_x4(two, filters_at + (b_at[i] ^ k));
                b[2 * i][0] = two[0], b[2 * i][1] = two[1], b[2 * i + 1][0] = two[2], b[2 * i + 1][1] = two[3];
            }
            mma(sums, a, b);
        }
    }
};

// y: PIXELS results by HALO_COLUMNS filters. Blocks are numbered by filters, then by pixels.
template <class H>
__device__ __forceinline__ void conv2d_halo(
    Half* y, const Half* x, const Half* w, const Shortcut& shortcut, const Epilogue& epilogue, const unsigned* rows,
    int capacity, const ConvShape& s) {
    DYN_SHARED(Half, shared);
    const int across = s.k / HALO_COLUMNS, pixels = active_rows(rows, capacity) * (s.h * s.w);
    const int first = blockIdx.x / across * H::PIXELS, column0 = blockIdx.x % across * HALO_COLUMNS;
    if (first >= pixels) return;
    const HaloBlock<H> block{s,       shortcut, x, w, first, pixels, column0, shared,
                             shared + HALO_STAGES * HALO_COLUMNS * HALO_DEPTH};
    block.load_pixels(0, 0, 1);
    for (int step = 0; step < HALO_STAGES - 1; ++step) {
        if (step < block.steps()) block.load_filters(step);
        cp_async_commit();
    }
    const int lane = threadIdx.x % WARP, warp_pixel = threadIdx.x / WARP * HALO_DEPTH;
    int cells[HaloBlock<H>::DOWN];
#pragma unroll
    for (int i = 0; i < HaloBlock<H>::DOWN; ++i) cells[i] = block.first_cell(warp_pixel + 16 * i + lane % 16);
    float sums[HaloBlock<H>::DOWN][HaloBlock<H>::ACROSS][4] = {};
    int step = 0;
    const auto load_next = [&](int group, int part, int parts) {
        if (step + HALO_STAGES - 1 < block.steps()) block.load_filters(step + HALO_STAGES - 1);
        if (group + 1 < block.groups() && part < parts) block.load_pixels(group + 1, part, parts);
        cp_async_commit();
    };
    for (int group = 0; group < block.own_groups(); ++group) {
        for (int tap = 0; tap < HALO_TAPS; ++tap, ++step) {
            cp_async_wait<HALO_STAGES - 2>();
            __syncthreads();  // the copies have arrived; what is filled next was last read before this barrier
            load_next(group, tap, HALO_LOADING_STEPS);
            int lines[HaloBlock<H>::DOWN];
#pragma unroll
            for (int i = 0; i < HaloBlock<H>::DOWN; ++i) lines[i] = cells[i] + tap / 3 * H::PATCH_WIDTH + tap % 3;
            block.multiply(sums, block.patch(group), lines, block.stage(step));
        }
    }
    for (int group = block.own_groups(); group < block.groups(); ++group, ++step) {
        cp_async_wait<0>();
        __syncthreads();
        load_next(group, 0, 1);
        int lines[HaloBlock<H>::DOWN];
#pragma unroll
        for (int i = 0; i < HaloBlock<H>::DOWN; ++i) lines[i] = warp_pixel + 16 * i + lane % 16;
        block.multiply(sums, block.patch(group), lines, block.stage(step));
    }
    cp_async_wait<0>();
    const HalfTileStore<H::VECTOR> store{y, nullptr, s.k, {pixels}, epilogue};
#pragma unroll
    for (int half = 0; half < HALO_COLUMNS / PATCH; ++half) {
        const auto columns = store.start(column0 + half * PATCH + lane % 4 * THREAD_COLUMNS);
#pragma unroll
        for (int patch = 0; patch < HALO_DEPTH / PATCH; ++patch) {
            float values[THREAD_ROWS][THREAD_COLUMNS];
#pragma unroll
            for (int i = 0; i < THREAD_ROWS; ++i) {
#pragma unroll
                for (int j = 0; j < THREAD_COLUMNS; ++j) {
                    values[i][j] = sums[2 * patch + i / 2][half * 4 + j / 2][i % 2 * 2 + j % 2];
                }
            }
            store(first + warp_pixel + patch * PATCH + lane / 4, columns, values);
        }
    }
}
