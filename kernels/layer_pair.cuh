// Two layers of convolution with pooling on images in shared memory: LeNet5's, forward and back. The first layer is
// single precision, the second one multiplies halves on tensor cores.
//
// A block takes some rows of one image. What lies between the layers, the first one's results or their gradients, never
// reaches memory. The second layer is an implicit GEMM like that of conv_halo.cuh: its operand is a patch in shared
// memory with a border of zeros, of which each tap of a filter is a shifted view. All its filters fit beside the patch:
// their copies are pending while the first layer is computed, and no barrier stands between the taps.
//
// Patches and filters have lines of HALF_TILE_DEPTH halves, whose chunks have the order of gemm_half.cuh.
#pragma once

#include "gemm_half.cuh"
#include "pgd.cuh"

constexpr int PAIR_TAPS = PAIR_SIDE * PAIR_SIDE, PAIR_PADDING = PAIR_SIDE / 2, PAIR_WARPS = THREADS / WARP;
// Bytes of the second layer's filters are 2 PAIR_FILTERS.
constexpr int PAIR_FILTERS = PAIR_TAPS * PAIR_FIRST * PAIR_SECOND;
// Fragments of a warp tile of PATCH x PATCH results.
constexpr int PAIR_DOWN = PATCH / 16, PAIR_ACROSS = PATCH / 8;
static_assert(PAIR_FIRST == WARP && PAIR_FIRST == HALF_TILE_DEPTH && PAIR_SECOND == 2 * HALF_TILE_DEPTH);
static_assert(PAIR_WARPS == PAIR_WINDOW_ROWS * (PAIR_SECOND / PATCH) && PAIR_WARPS == 2 * PAIR_PIXELS / PATCH);
static_assert(PAIR_WIDTH / 4 <= PATCH / PLACES, "a warp tile has a row of windows");

// Some of the rows of an image.
struct RowSpan {
    int first, end;
};

// Rows of part `part` of `count` rows in `parts` parts.
__device__ __forceinline__ RowSpan rows_of_part(int count, int parts, int part) {
    const int each = ceil_div(count, parts);
    return {min(part * each, count), min((part + 1) * each, count)};
}

// Starts copying filters [.., STEPS * HALF_TILE_DEPTH] to [STEPS][LINES][HALF_TILE_DEPTH], the lines in the order of
// `column_of_line`.
template <int LINES>
__device__ __forceinline__ void load_pair_filters(Half* to, const Half* from) {
    constexpr int STEPS = PAIR_FILTERS / (LINES * HALF_TILE_DEPTH), LINES_AT_ONCE = THREADS / CHUNKS;
    const int line = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    from += column_of_line(line % LINES) * (STEPS * HALF_TILE_DEPTH) + line / LINES * HALF_TILE_DEPTH + chunk * CHUNK;
    to += chunk_place(line, chunk);
#pragma unroll 5
    for (int pass = 0; pass < STEPS * LINES / LINES_AT_ONCE; ++pass) {
        cp_async_16(to + pass * (LINES_AT_ONCE * HALF_TILE_DEPTH),
                    from + pass * (LINES_AT_ONCE / LINES * HALF_TILE_DEPTH), true);
    }
    cp_async_commit();
}

// Adds HALF_TILE_DEPTH terms to a warp tile: of the patch's line that each lane names for its row of each fragment, and
// of PATCH lines of filters.
__device__ __forceinline__ void add_pair_products(
    float (&sums)[PAIR_DOWN][PAIR_ACROSS][4], const Half* patch, const int (&lines)[PAIR_DOWN], const Half* filters) {
    const int lane = threadIdx.x % WARP, column = lane / 16 * 8 + lane % 8;
    int a_at[PAIR_DOWN], b_at[PAIR_ACROSS / 2];
#pragma unroll
    for (int i = 0; i < PAIR_DOWN; ++i) a_at[i] = chunk_place(lines[i], lane / 16);
#pragma unroll
    for (int i = 0; i < PAIR_ACROSS / 2; ++i) b_at[i] = chunk_place(16 * i + column, lane / 8 % 2);
#pragma unroll
    for (int k = 0; k < HALF_TILE_DEPTH; k += 16) {
        // A line begins at a multiple of 32 halves, so the next chunks' places differ by an exclusive or.
        unsigned a[PAIR_DOWN][4], b[PAIR_ACROSS][2];
#pragma unroll
        for (int i = 0; i < PAIR_DOWN; ++i) ldmatrix_x4(a[i], patch + (a_at[i] ^ k));
#pragma unroll
        for (int i = 0; i < PAIR_ACROSS / 2; ++i) {
            unsigned two[4];
            ldmatrix_x4(two, filters + (b_at[i] ^ k));
            b[2 * i][0] = two[0], b[2 * i][1] = two[1], b[2 * i + 1][0] = two[2], b[2 * i + 1][1] = two[3];
        }
        mma(sums, a, b);
    }
}

// A thread's results of a warp tile, as `gemm_half` gives them to an output.
__device__ __forceinline__ void pair_values(
    float (&values)[THREAD_ROWS][THREAD_COLUMNS], const float (&sums)[PAIR_DOWN][PAIR_ACROSS][4]) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < THREAD_COLUMNS; ++j) values[i][j] = sums[i / 2][j / 2][i % 2 * 2 + j % 2];
    }
}

// --- forward ---

// Line of a result of the first layer in a patch of `width` columns: a row's even columns, then its odd ones. So the
// windows of pooling, whose columns are two apart, read adjacent lines.
__device__ __forceinline__ int pooled_line(int row, int column, int width) {
    return row * width + column % 2 * (width / 2) + column / 2;
}

// Computes the first layer from `pixels` [rows][stride] into the rows of a patch. A warp takes PAIR_WINDOWS windows of a
// row at a time, each of its lanes a filter, whose weights are in registers: a window's pixels are loads that all lanes
// share, eight of them for 100 multiply-adds. `output(row, column, pooled)` is called for row and column of
// the results of each window.
template <class Output>
__device__ __forceinline__ void pool_first_layer(
    const Output& output, const float* pixels, int stride, const float* w, const float* bias, RowSpan live, int top,
    int high, int wide) {
    constexpr int OUTPUTS = 2 * PAIR_WINDOWS, PIXELS = OUTPUTS + PAIR_SIDE - 1;
    const int lane = threadIdx.x % WARP, items = ceil_div(wide, PAIR_WINDOWS);
    float weights[PAIR_TAPS];
#pragma unroll
    for (int tap = 0; tap < PAIR_TAPS; ++tap) weights[tap] = w[lane * PAIR_TAPS + tap];
    const float shift = bias[lane];
#pragma unroll 1
    for (int item = threadIdx.x / WARP; item < (live.end - live.first) * items; item += PAIR_WARPS) {
        const int row = live.first + item / items, column = item % items * PAIR_WINDOWS;
        const float* from = pixels + 2 * (row - top) * stride + 2 * column;
        float sums[2][OUTPUTS] = {};
#pragma unroll
        for (int y = 0; y < PAIR_SIDE + 1; ++y) {
            float line[PIXELS];
#pragma unroll
            for (int x = 0; x < PIXELS; x += 2) {
                const float2 two = *reinterpret_cast<const float2*>(from + y * stride + x);
                line[x] = two.x, line[x + 1] = two.y;
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int tap_y = y - i;
                if (tap_y < 0 || tap_y >= PAIR_SIDE) continue;
#pragma unroll
                for (int tap_x = 0; tap_x < PAIR_SIDE; ++tap_x) {
                    const float weight = weights[tap_y * PAIR_SIDE + tap_x];
#pragma unroll
                    for (int j = 0; j < OUTPUTS; ++j) sums[i][j] = fmaf(line[j + tap_x], weight, sums[i][j]);
                }
            }
        }
#pragma unroll
        for (int j = 0; j < PAIR_WINDOWS; ++j) {
            const float window[PLACES] = {sums[0][2 * j], sums[0][2 * j + 1], sums[1][2 * j], sums[1][2 * j + 1]};
            if (column + j < wide) output(row, column + j, pool(window, shift));
        }
    }
}

// Both layers on images or on points along a direction, with `parts` blocks an image of h x w pixels. Every part computes
// the rows of the first layer that its rows of the second one read: 10 and 8 of 14 for LeNet5, whose first layer so takes
// 1.3 times its FLOPs. A part's choices of the first layer are those between which its second layer's windows begin.
__device__ __forceinline__ void pool_two_layers(
    Half* out, unsigned char* choice, unsigned char* first_choice, const float* x, const float* w, const float* bias,
    const Half* second_w, const float* second_bias, const PointAlong& point, const unsigned* rows, int capacity, int h,
    int wide_image, int parts) {
    DYN_SHARED(Half, filters);
    const int thread = static_cast<int>(threadIdx.x), image = static_cast<int>(blockIdx.x) / parts;
    if (image >= active_rows(rows, capacity)) return;
    const int high = h / 2, wide = wide_image / 2, width = wide + 2 * PAIR_PADDING;
    const RowSpan windows = rows_of_part(high / 2, parts, static_cast<int>(blockIdx.x) % parts);
    const int top = 2 * windows.first - PAIR_PADDING, patch_rows = 2 * (windows.end - windows.first + PAIR_PADDING);
    const int stride = 2 * (ceil_div(wide, PAIR_WINDOWS) * PAIR_WINDOWS + PAIR_PADDING);
    Half* patch = filters + PAIR_FILTERS;
    float* pixels = reinterpret_cast<float*>(patch + patch_rows * width * HALF_TILE_DEPTH);

    load_pair_filters<PAIR_SECOND>(filters, second_w);
    for (int i = thread; i < patch_rows * width * CHUNKS; i += THREADS) {
        reinterpret_cast<uint4*>(patch)[i] = make_uint4(0, 0, 0, 0);
    }
    const size_t start = static_cast<size_t>(image) * (h * wide_image);
    x += start;
    const float* adv = point.adv == nullptr ? nullptr : point.adv + start;
    const AlongDirection along =
        adv == nullptr ? AlongDirection(0.0f, 0.0f, false) : point.of_row(x, image, h * wide_image);
    for (int i = thread; i < 2 * (patch_rows + PAIR_PADDING) * stride; i += THREADS) {
        const int line = i / stride, from_y = 2 * top - PAIR_PADDING + line, from_x = i - line * stride - PAIR_PADDING;
        const bool inside = static_cast<unsigned>(from_y) < static_cast<unsigned>(h) &&
                            static_cast<unsigned>(from_x) < static_cast<unsigned>(wide_image);
        const int at = from_y * wide_image + from_x;
        float pixel = inside ? x[at] : 0.0f;
        if (inside && adv != nullptr) pixel = along(pixel, adv[at]);
        pixels[i] = pixel;
    }
    __syncthreads();
    const int lane = thread % WARP;
    const RowSpan live{max(top, 0), min(top + patch_rows, high)};
    const auto keep = [=](int row, int column, const Pooled& pooled) {
        const int line = pooled_line(row - top, column + PAIR_PADDING, width);
        patch[chunk_place(line, lane / CHUNK) + lane % CHUNK].bits = half_of(pooled.value);
        if (row >= 2 * windows.first && row < 2 * windows.end) {
            first_choice[(static_cast<size_t>(image * high + row) * wide + column) * PAIR_FIRST + lane] = pooled.choice;
        }
    };
    pool_first_layer(keep, pixels, stride, w, bias, live, top, high, wide);
    cp_async_wait<0>();
    __syncthreads();

    const int warp = thread / WARP, window_row = windows.first + warp / 2, column0 = warp % 2 * PATCH;
    if (window_row >= windows.end) return;
    // A lane's place in its window: row 0 or 1 of fragment 0 or 1.
    const int window = min(lane % 8, wide / 2 - 1), place_x = lane / 8 % 2;
    float sums[PAIR_DOWN][PAIR_ACROSS][4] = {};
#pragma unroll 1
    for (int tap_y = 0; tap_y < PAIR_SIDE; ++tap_y) {
#pragma unroll
        for (int tap_x = 0; tap_x < PAIR_SIDE; ++tap_x) {
            int lines[PAIR_DOWN];
#pragma unroll
            for (int i = 0; i < PAIR_DOWN; ++i) {
                lines[i] = pooled_line(2 * (window_row - windows.first) + i + tap_y, 2 * window + place_x + tap_x, width);
            }
            const int line = (tap_y * PAIR_SIDE + tap_x) * PAIR_SECOND + column0;
            add_pair_products(sums, patch, lines, filters + line * HALF_TILE_DEPTH);
        }
    }
    if (lane / 4 >= wide / 2) return;
    float values[THREAD_ROWS][THREAD_COLUMNS];
    pair_values(values, sums);
    const int first = (image * (high / 2) + window_row) * (wide / 2) + lane / 4;
    const HalfPoolStore<CHUNK> store{out, choice, second_bias, PLACES * (first + 1), PAIR_SECOND};
    store(PLACES * first, column0 + lane % 4 * THREAD_COLUMNS, values);
}

// --- back ---

// Sums over a warp: lane 8 i has that of values[i]. The order of additions is that of `warp_sum`.
__device__ __forceinline__ float warp_sums(const float (&values)[PLACES]) {
    const int lane = threadIdx.x % WARP;
    const bool upper = lane & 16, odd = lane & 8;
    const auto halve = [](float own, float other, int lanes) { return own + __shfl_xor_sync(FULL_MASK, other, lanes); };
    const float first = halve(upper ? values[2] : values[0], upper ? values[0] : values[2], 16);
    const float second = halve(upper ? values[3] : values[1], upper ? values[1] : values[3], 16);
    float sum = halve(odd ? second : first, odd ? first : second, 8);
#pragma unroll
    for (int lanes = 4; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(FULL_MASK, sum, lanes);
    return sum;
}

// A gradient of a result of the first layer, 0 where nothing was chosen, and the place of its filter's first weight in
// a table [PAIR_TABLE][PAIR_TABLE][PAIR_FIRST], moved by the choice.
struct ChosenGradient {
    float gradient;
    int weights;
};
// Taps of the first layer that a window of pooling beside a pixel may meet: one more on each side than there are.
constexpr int PAIR_TABLE = PAIR_SIDE + 2;

// The input gradient of both layers. A part has some rows of 2 x 2 pixels, as high as the first layer's results; their
// gradients come from those results and their neighbours, at most PAIR_PIXELS of a part, 8 of 14 rows for LeNet5.
// Calls `output(at, image, gradient)` for number `at` of the batch's images. Gradients of the second layer's pooled
// results are the sums of `dy` [splits][capacity * high / 2 * wide / 2][PAIR_SECOND].
//
// The second layer: a warp adds the terms of half of the channels of dy for 32 results; three of four of these terms are
// zero. The first layer: as conv_pool_direct.cuh, a lane a filter, with the operands in shared memory.
template <class Output>
__device__ __forceinline__ void two_layers_backward_input(
    const Output& output, const float* dy, const unsigned char* choice, const Half* second_w, const float* w,
    const unsigned char* first_choice, const unsigned* rows, int capacity, int h, int wide_image, int parts,
    int splits) {
    DYN_SHARED(Half, filters);
    const int thread = static_cast<int>(threadIdx.x), image = static_cast<int>(blockIdx.x) / parts;
    if (image >= active_rows(rows, capacity)) return;
    const int high = h / 2, wide = wide_image / 2, width = wide + 2 * PAIR_PADDING;
    const RowSpan own = rows_of_part(high, parts, static_cast<int>(blockIdx.x) % parts);
    const RowSpan results{max(own.first - 1, 0), min(own.end + 1, high)};
    const int top = results.first - PAIR_PADDING, patch_rows = results.end - results.first + 2 * PAIR_PADDING;
    const int cells = (results.end - results.first) * wide, plane = patch_rows * width * HALF_TILE_DEPTH;
    // Filters and patch; the weights of the first layer; the gradients with respect to the pixels. When the filters have
    // been read, their place takes the two halves of the sums, and the chosen gradients.
    Half* patch = filters + PAIR_FILTERS;
    float* weights = reinterpret_cast<float*>(patch + 2 * plane);
    float* pixels = weights + PAIR_TABLE * PAIR_TABLE * PAIR_FIRST;
    float* halves = reinterpret_cast<float*>(filters);
    ChosenGradient* chosen = reinterpret_cast<ChosenGradient*>(halves + 2 * PAIR_PIXELS * PAIR_FIRST);
    static_assert(2 * PAIR_PIXELS * PAIR_FIRST * (sizeof(float) + sizeof(ChosenGradient) / 2) <= 2 * PAIR_FILTERS);

    load_pair_filters<PAIR_FIRST>(filters, second_w);
    // The gradients of the four outputs of each window, of which at most one is not zero.
    constexpr int OF_CELL = PAIR_SECOND / CHUNK;
    const int first_row = (top - (top & 1)) / 2, across = width / 2;
    const int windows = (top + patch_rows + 1 - 2 * first_row) / 2 * across;
    for (int i = thread; i < windows * OF_CELL; i += THREADS) {
        const int window = i / OF_CELL, chunk = i % OF_CELL, row = first_row + window / across;
        const int column = window % across - PAIR_PADDING / 2;
        float gradients[CHUNK] = {};
        unsigned char places[CHUNK];
#pragma unroll
        for (int v = 0; v < CHUNK; ++v) places[v] = NO_CHOICE;
        if (static_cast<unsigned>(row) < static_cast<unsigned>(high / 2) &&
            static_cast<unsigned>(column) < static_cast<unsigned>(wide / 2)) {
            const size_t cell = static_cast<size_t>(image * (high / 2) + row) * (wide / 2) + column;
            const size_t at = cell * PAIR_SECOND + chunk * CHUNK;
            const size_t all = static_cast<size_t>(capacity) * (high / 2) * (wide / 2) * PAIR_SECOND;
#pragma unroll 4
            for (int split = 0; split < splits; ++split) {
                float some[CHUNK];
                load_vector(some, dy + split * all + at);
#pragma unroll
                for (int v = 0; v < CHUNK; ++v) gradients[v] += some[v];
            }
#pragma unroll
            for (int v = 0; v < CHUNK; v += 4) {
                const uchar4 four = *reinterpret_cast<const uchar4*>(choice + at + v);
                places[v] = four.x, places[v + 1] = four.y, places[v + 2] = four.z, places[v + 3] = four.w;
            }
        }
        Half* to = patch + chunk / CHUNKS * plane;
#pragma unroll
        for (int place = 0; place < PLACES; ++place) {
            const int to_row = 2 * row + place / 2 - top;
            if (to_row < 0 || to_row >= patch_rows) continue;
            float numbers[CHUNK];
#pragma unroll
            for (int v = 0; v < CHUNK; ++v) numbers[v] = places[v] == place ? gradients[v] : 0.0f;
            const int line = to_row * width + 2 * column + place % 2 + PAIR_PADDING;
            *reinterpret_cast<uint4*>(to + chunk_place(line, chunk % CHUNKS)) = half_chunk_of(numbers);
        }
    }
    for (int i = thread; i < PAIR_TABLE * PAIR_TABLE * PAIR_FIRST; i += THREADS) {
        const int filter = i % PAIR_FIRST, tap_y = i / PAIR_FIRST / PAIR_TABLE - 1, tap_x = i / PAIR_FIRST % PAIR_TABLE - 1;
        const bool inside = static_cast<unsigned>(tap_y) < static_cast<unsigned>(PAIR_SIDE) &&
                            static_cast<unsigned>(tap_x) < static_cast<unsigned>(PAIR_SIDE);
        weights[i] = inside ? w[filter * PAIR_TAPS + tap_y * PAIR_SIDE + tap_x] : 0.0f;
    }
    cp_async_wait<0>();
    __syncthreads();

    const int lane = thread % WARP, warp = thread / WARP, half = warp / (PAIR_WARPS / 2);
    const int tile = warp % (PAIR_WARPS / 2) * PATCH;
    float sums[PAIR_DOWN][PAIR_ACROSS][4] = {};
    if (tile < cells) {
        int first_lines[PAIR_DOWN];
#pragma unroll
        for (int i = 0; i < PAIR_DOWN; ++i) {
            const int cell = min(tile + 16 * i + lane % 16, cells - 1), row = cell / wide;
            first_lines[i] = row * width + cell - row * wide;
        }
#pragma unroll 1
        for (int tap_y = 0; tap_y < PAIR_SIDE; ++tap_y) {
#pragma unroll
            for (int tap_x = 0; tap_x < PAIR_SIDE; ++tap_x) {
                int lines[PAIR_DOWN];
#pragma unroll
                for (int i = 0; i < PAIR_DOWN; ++i) lines[i] = first_lines[i] + tap_y * width + tap_x;
                const int step = 2 * (tap_y * PAIR_SIDE + tap_x) + half;
                add_pair_products(sums, patch + half * plane, lines, filters + step * (PAIR_FIRST * HALF_TILE_DEPTH));
            }
        }
    }
    __syncthreads();  // the filters have been read
    float values[THREAD_ROWS][THREAD_COLUMNS];
    pair_values(values, sums);
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i) {
        const int cell = tile + lane / 4 + i * ROW_DISTANCE;
        store_vector(halves + (half * PAIR_PIXELS + cell) * PAIR_FIRST + lane % 4 * THREAD_COLUMNS, values[i]);
    }
    __syncthreads();
    first_choice += static_cast<size_t>(image * high + results.first) * wide * PAIR_FIRST;
    for (int i = thread; i < cells * PAIR_FIRST; i += THREADS) {
        const int place = first_choice[i];
        const bool live = place != NO_CHOICE;
        const int shift = live ? place / 2 * PAIR_TABLE + place % 2 : 0;
        chosen[i] = {live ? halves[i] + halves[PAIR_PIXELS * PAIR_FIRST + i] : 0.0f, lane - shift * PAIR_FIRST};
    }
    __syncthreads();

    const int blocks = (own.end - own.first) * wide;
    for (int block = warp; block < blocks; block += PAIR_WARPS) {
        const int row = own.first + block / wide, column = block % wide;
        float of_pixels[PLACES] = {};
#pragma unroll
        for (int down = -1; down <= 1; ++down) {
#pragma unroll
            for (int right = -1; right <= 1; ++right) {
                const bool live = static_cast<unsigned>(row + down) < static_cast<unsigned>(high) &&
                                  static_cast<unsigned>(column + right) < static_cast<unsigned>(wide);
                ChosenGradient from{0.0f, lane};
                if (live) from = chosen[((row + down - results.first) * wide + column + right) * PAIR_FIRST + lane];
                // With the choice at the window's first place this is the tap of the first of the four pixels.
                const int tap = (3 - 2 * down) * PAIR_TABLE + 3 - 2 * right;
#pragma unroll
                for (int p = 0; p < PLACES; ++p) {
                    const int moved = (tap + p / 2 * PAIR_TABLE + p % 2) * PAIR_FIRST;
                    of_pixels[p] = fmaf(from.gradient, weights[from.weights + moved], of_pixels[p]);
                }
            }
        }
        const float sum = warp_sums(of_pixels);
        const int p = lane / 8, pixel = (2 * (row - own.first) + p / 2) * wide_image + 2 * column + p % 2;
        if (lane % 8 == 0) pixels[pixel] = sum;
    }
    __syncthreads();
    const size_t start = static_cast<size_t>(image * h + 2 * own.first) * wide_image;
    for (int i = thread; i < PLACES * blocks; i += THREADS) output(start + i, image, pixels[i]);
}
