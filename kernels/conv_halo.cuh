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
// Batch norm before the convolution, with ReLU, is applied to a patch when it has arrived, by the threads that copied it.
// Rounded to halves it has the bits that a pass over memory would write, and that pass is saved: 33.6 MB, 6.6 us. It
// takes at most 22 chunks a thread and 64 channels, about 75 instructions each. The products have as few, but keep the
// tensor cores busy for 9,200 clocks. An estimate is 5 to 12 % of the launch, 1.5 to 3.5 us.
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
    // Lines that the block's threads copy at once, a chunk each; passes over all cells, and of one step.
    static constexpr int STRIDE = THREADS / HALO_CHUNKS, PASSES = (CELLS + STRIDE - 1) / STRIDE;
    static constexpr int PASSES_OF_STEP = (PASSES + HALO_LOADING_STEPS - 1) / HALO_LOADING_STEPS;
    static_assert(WARPS * HALO_DEPTH == PIXELS && PIXELS <= CELLS && STRIDE % HALO_CHUNKS == 0);
};
using Halo32 = HaloShape<32, HALO_PIXELS_32 / 32, 1>;
using Halo16 = HaloShape<16, HALO_PIXELS_16 / 16, 1>;
using Halo8 = HaloShape<8, 8, HALO_PIXELS_8 / 64>;

// Place of a chunk of a line, in halves.
__device__ __forceinline__ int halo_place(int line, int chunk) {
    return line * HALO_DEPTH + (chunk ^ line % HALO_CHUNKS) * CHUNK;
}

// A block's part of the convolution: what it copies, and the products of its warps. A thread copies one chunk of every
// STRIDE-th line, so that places and addresses differ by constants.
template <class H>
struct HaloBlock {
    static constexpr int DOWN = 4, ACROSS = HALO_COLUMNS / 8;  // fragments of a warp
    const ConvShape& s;
    const Shortcut& shortcut;
    const OperandNorm& norm;
    const Half *x, *w;
    int images;             // active images from the block's first image on
    int image, y, column0;  // first image, first row, first filter
    Half *filters, *patches;  // [HALO_STAGES][HALO_COLUMNS][64], [2][CELLS][64]

    __device__ static int own_line() { return threadIdx.x / HALO_CHUNKS; }
    __device__ static int own_chunk() { return threadIdx.x % HALO_CHUNKS; }

    // Groups of 64 channels: those of x, then those of the shortcut.
    __device__ int own_groups() const { return s.c / HALO_DEPTH; }
    __device__ int groups() const { return own_groups() + ceil_div(shortcut.shape.channels, HALO_DEPTH); }

    __device__ Half* patch(int group) const { return patches + group % 2 * (H::CELLS * HALO_DEPTH); }
    __device__ Half* stage(int step) const { return filters + step % HALO_STAGES * (HALO_COLUMNS * HALO_DEPTH); }

    // A cell of the patch whose chunk this thread copies.
    struct Cell {
        int line, of_image, row, column;

        __device__ explicit Cell(int first_line) : line(first_line) {
            of_image = line / (H::PATCH_ROWS * H::PATCH_WIDTH), row = line / H::PATCH_WIDTH % H::PATCH_ROWS;
            column = line % H::PATCH_WIDTH;
        }
        // Goes to this thread's next cell, STRIDE lines on.
        __device__ void advance() {
            line += H::STRIDE;
            row += H::STRIDE / H::PATCH_WIDTH, column += H::STRIDE % H::PATCH_WIDTH;
            if (column >= H::PATCH_WIDTH) column -= H::PATCH_WIDTH, ++row;
            if (row >= H::PATCH_ROWS) row -= H::PATCH_ROWS, ++of_image;
        }
    };

    // True if a cell is a pixel of an active image.
    __device__ bool is_pixel(const Cell& cell) const {
        return static_cast<unsigned>(y + cell.row - 1) < static_cast<unsigned>(s.h) &&
               static_cast<unsigned>(cell.column - 1) < static_cast<unsigned>(H::WIDTH) && cell.of_image < images;
    }

    // Offset of a cell's pixel from the first one of the block's first image, in numbers.
    __device__ int offset(const Cell& cell) const {
        return ((cell.of_image * s.h + y + cell.row - 1) * H::WIDTH + cell.column - 1) * s.c;
    }

    // Offset of the block's first image.
    __device__ size_t start() const { return static_cast<size_t>(image) * (s.h * H::WIDTH * s.c); }

    // Starts copying this thread's chunks of the cells of PASSES passes of a group's patch.
    template <int PASSES>
    __device__ void load_cells(int group, int first_pass) const {
        Cell cell(own_line() + first_pass * H::STRIDE);
        const Half* from = x + start() + group * HALO_DEPTH + own_chunk() * CHUNK;
        Half* to = patch(group) + halo_place(cell.line, own_chunk());
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const bool live = is_pixel(cell);
            if (cell.line < H::CELLS) cp_async_16(to, live ? from + offset(cell) : x, live);
            cell.advance(), to += H::STRIDE * HALO_DEPTH;
        }
    }

    // Applies batch norm to this thread's chunks of a group's patch, whose copies have arrived. Zeros beyond the image
    // stay. Blocks of the first filters write their pixels to memory, if they are a result.
    __device__ void normalize_cells(int group) const {
        const int channel = group * HALO_DEPTH + own_chunk() * CHUNK;
        float scale[CHUNK], shift[CHUNK];
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) {
            scale[i] = batch_norm_scale(norm.weight[channel + i], norm.variance[channel + i]);
            shift[i] = batch_norm_shift(norm.bias[channel + i], norm.mean[channel + i], scale[i]);
        }
        Half* result = norm.result != nullptr && column0 == 0 ? reinterpret_cast<Half*>(norm.result) : nullptr;
        if (result != nullptr) result += start() + channel;
        Cell cell(own_line());
        Half *const first = patch(group) + halo_place(cell.line, own_chunk()), *at = first;
        constexpr int TOGETHER = 2;  // cells whose loads are in flight at once
#pragma unroll 1
        for (int pass = 0; pass < H::PASSES; pass += TOGETHER) {
            float numbers[TOGETHER][CHUNK];
            bool live[TOGETHER], own[TOGETHER];
            int to[TOGETHER];
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i, cell.advance()) {
                live[i] = cell.line < H::CELLS && is_pixel(cell);
                own[i] = live[i] && static_cast<unsigned>(cell.row - 1) < static_cast<unsigned>(H::ROWS);
                to[i] = offset(cell);
                load_vector(numbers[i], live[i] ? at + i * (H::STRIDE * HALO_DEPTH) : first);
            }
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i, at += H::STRIDE * HALO_DEPTH) {
#pragma unroll
                for (int j = 0; j < CHUNK; ++j) numbers[i][j] = relu_of(numbers[i][j] * scale[j] + shift[j]);
                const uint4 chunk = half_chunk_of(numbers[i]);
                if (live[i]) *reinterpret_cast<uint4*>(at) = chunk;
                if (result != nullptr && own[i]) *reinterpret_cast<uint4*>(result + to[i]) = chunk;
            }
        }
    }

    // Starts copying the pixels of a group of the shortcut's channels, which are as many as the block's results.
    __device__ void load_shortcut(int group) const {
        const auto [h, w, channels, stride] = shortcut.shape;
        const int channel = (group - own_groups()) * HALO_DEPTH + own_chunk() * CHUNK;
        const Half* from = reinterpret_cast<const Half*>(shortcut.x) + static_cast<size_t>(image) * (h * w * channels);
        Half* to = patch(group) + halo_place(own_line(), own_chunk());
#pragma unroll 4
        for (int pass = 0; pass < H::PIXELS / H::STRIDE; ++pass) {
            const int line = own_line() + pass * H::STRIDE, of_image = line / (H::ROWS * H::WIDTH);
            const int row = y + line / H::WIDTH % H::ROWS, column = line % H::WIDTH;
            const bool live = channel < channels && of_image < images;
            const int offset = ((of_image * h + row * stride) * w + column * stride) * channels + channel;
            cp_async_16(to + pass * (H::STRIDE * HALO_DEPTH), live ? from + offset : x, live);
        }
    }

    // Starts copying the filters of a tap and a group. `column_of_line` permutes bits, so that lines a STRIDE apart have
    // filters that differ by a constant.
    __device__ void load_filters(int step, int group, int tap) const {
        const bool own = group < own_groups();
        const int of_group = (own ? group : group - own_groups()) * HALO_DEPTH + own_chunk() * CHUNK;
        const int length = own ? HALO_TAPS * s.c : shortcut.shape.channels;  // of a filter
        const int offset = own ? tap * s.c + of_group : of_group;
        const bool live = own || of_group < length;
        const Half* all = own ? w : reinterpret_cast<const Half*>(shortcut.filters);
        const Half* from = all + static_cast<size_t>(column0 + column_of_line(own_line())) * length + offset;
        Half* to = stage(step) + halo_place(own_line(), own_chunk());
#pragma unroll
        for (int line = 0; line < HALO_COLUMNS; line += H::STRIDE) {
            cp_async_16(to + line * HALO_DEPTH, live ? from + column_of_line(line) * length : w, live);
        }
    }

    // Line of the patch that a pixel of the block has for the first tap.
    __device__ static int first_cell(int pixel) {
        const int of_image = pixel / (H::ROWS * H::WIDTH), rest = pixel % (H::ROWS * H::WIDTH);
        return (of_image * H::PATCH_ROWS + rest / H::WIDTH) * H::PATCH_WIDTH + rest % H::WIDTH;
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
template <class H, class Sums>
__device__ __forceinline__ void conv2d_halo(
    Half* y, const Half* x, const Half* w, const Shortcut& shortcut, const Epilogue& epilogue, const OperandNorm& norm,
    const Sums& column_sums, const unsigned* rows, int capacity, const ConvShape& s) {
    using Block = HaloBlock<H>;
    DYN_SHARED(Half, shared);
    const int across = s.k / HALO_COLUMNS, images = active_rows(rows, capacity);
    const int tile = blockIdx.x / across, column0 = blockIdx.x % across * HALO_COLUMNS;
    const int first_row = tile * (H::ROWS * H::IMAGES), image = first_row / s.h;
    if (image >= images) return;
    const Block block{s,     shortcut, norm,   x, w, images - image, image, first_row - image * s.h, column0,
                      shared, shared + HALO_STAGES * HALO_COLUMNS * HALO_DEPTH};
    const bool normalizes = norm.weight != nullptr;
    const int own_groups = block.own_groups(), groups = block.groups();
    block.template load_cells<H::PASSES>(0, 0);
    // The step whose filters are loaded next.
    int ahead = 0, ahead_group = 0, ahead_tap = 0;
    const auto load_filters = [&] {
        if (ahead_group < groups) {
            block.load_filters(ahead, ahead_group, ahead_tap);
            ++ahead;
            if (++ahead_tap == (ahead_group < own_groups ? HALO_TAPS : 1)) ahead_tap = 0, ++ahead_group;
        }
    };
#pragma unroll
    for (int i = 0; i < HALO_STAGES - 1; ++i) {
        load_filters();
        cp_async_commit();
    }
    const int lane = threadIdx.x % WARP, warp_pixel = threadIdx.x / WARP * HALO_DEPTH;
    int cells[Block::DOWN], lines[Block::DOWN];
#pragma unroll
    for (int i = 0; i < Block::DOWN; ++i) cells[i] = block.first_cell(warp_pixel + 16 * i + lane % 16);
    float sums[Block::DOWN][Block::ACROSS][4] = {};
    if (normalizes) {
        cp_async_wait<HALO_STAGES - 2>();
        block.normalize_cells(0);
    }
    int step = 0;
    for (int group = 0; group < own_groups; ++group) {
        int shift = 0;  // of the tap's cells
#pragma unroll 1
        for (int tap = 0; tap < HALO_TAPS; ++tap, ++step) {
            cp_async_wait<HALO_STAGES - 2>();
            __syncthreads();  // the copies have arrived; what is filled next was last read before this barrier
            load_filters();
            if (group + 1 < own_groups) {
                if (tap < HALO_LOADING_STEPS) {
                    block.template load_cells<H::PASSES_OF_STEP>(group + 1, tap * H::PASSES_OF_STEP);
                }
            } else if (tap == 0 && group + 1 < groups) {
                block.load_shortcut(group + 1);
            }
            cp_async_commit();
            if (normalizes && tap == HALO_TAPS - 1 && group + 1 < own_groups) block.normalize_cells(group + 1);
#pragma unroll
            for (int i = 0; i < Block::DOWN; ++i) lines[i] = cells[i] + shift;
            block.multiply(sums, block.patch(group), lines, block.stage(step));
            shift += tap % 3 == 2 ? H::PATCH_WIDTH - 2 : 1;
        }
    }
#pragma unroll
    for (int i = 0; i < Block::DOWN; ++i) lines[i] = warp_pixel + 16 * i + lane % 16;
#pragma unroll 1
    for (int group = own_groups; group < groups; ++group, ++step) {
        cp_async_wait<0>();
        __syncthreads();
        load_filters();
        if (group + 1 < groups) block.load_shortcut(group + 1);
        cp_async_commit();
        block.multiply(sums, block.patch(group), lines, block.stage(step));
    }
    cp_async_wait<0>();
    const int outputs = images * (s.h * H::WIDTH), row0 = tile * H::PIXELS;
    const HalfSummedStore<H::VECTOR, HALO_COLUMNS, HALO_DEPTH, Sums> store{
        {y, nullptr, s.k, {outputs}, epilogue}, column_sums};
    // In the place of filters that were last read three steps ago: all warps have passed a barrier since.
    float* warp_sums = reinterpret_cast<float*>(block.stage(step));
#pragma unroll
    for (int half = 0; half < HALO_COLUMNS / PATCH; ++half) {
        const int column = half * PATCH + lane % 4 * THREAD_COLUMNS;
        auto columns = store.start(column0 + column);
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
            store(row0 + warp_pixel + patch * PATCH + lane / 4, columns, values);
        }
        store.pass_on(columns, warp_sums, threadIdx.x / WARP, column);
    }
    store.template finish<H::PIXELS>(warp_sums, row0, column0, across);
}
