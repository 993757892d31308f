// The input gradient of a first layer with pooling, without a matrix product.
#pragma once

#include "conv.cuh"

// Gradients with respect to the layer's results, in memory.
template <class Dy>
struct StoredGradients {
    const Dy* dy;

    // Sets `to` to the gradients at `cells`, or to 0 where they are not `live`.
    template <int N>
    __device__ __forceinline__ void load(float (&to)[N], const size_t (&cells)[N], const bool (&live)[N]) const {
#pragma unroll
        for (int i = 0; i < N; ++i) to[i] = live[i] ? read(dy[cells[i]]) : 0.0f;
    }
};

// Gradients whose sums are split: they are the sums of `parts` [splits, stride].
struct SplitGradients {
    const float* parts;
    size_t stride;
    int splits;

    template <int N>
    __device__ __forceinline__ void load(float (&to)[N], const size_t (&cells)[N], const bool (&live)[N]) const {
#pragma unroll
        for (int i = 0; i < N; ++i) to[i] = 0.0f;
#pragma unroll 4
        for (int split = 0; split < splits; ++split) {
#pragma unroll
            for (int i = 0; i < N; ++i) to[i] += live[i] ? parts[split * stride + cells[i]] : 0.0f;
        }
    }
};

// Direct form of the gradient, for images of few channels (a block tile would use few of its columns) and stride
// 1: it visits chosen outputs only. A warp computes one channel of 2 x 2 pixels, which the same outputs contribute to;
// its lanes take the filters. For each pooling window around the pixels a lane reads one gradient and its choice, and
// adds up to four products. The loads of neighbouring windows are in flight together.
//
// LeNet5's first convolution at a batch of 50: 1.6 MB of gradients and choices, each read for 9 pixel blocks (caches);
// 16 million operations instead of 63. 9800 pixel blocks x 9 windows x about 35 instructions a warp would be 4 us. An
// H200 took 28 us when a lane waited for a choice before it loaded the gradient, window after window; it has not run
// this form. Of halves the gradients and choices are 0.9 MB.
//
// Calls `output(at, image, sum)` for number `at` of the batch's images.
template <class Output, class Gradients>
__device__ __forceinline__ void conv_pool_backward_input_directly(
    const Output& output, const Gradients& of_results, const unsigned char* choice, const float* w,
    const unsigned* rows, int capacity, const ConvShape& s, int turns) {
    DYN_SHARED(float, filters);  // [kh kw c][k]: lanes read adjacent elements
    constexpr int WINDOWS = 3;   // neighbours whose choices and gradients are loaded before their products
    const int high = ceil_div(s.h, 2), wide = ceil_div(s.w, 2), columns = s.out_w / 2;
    const int blocks = active_rows(rows, capacity) * high * wide * s.c;
    // Each warp takes `turns` blocks of pixels, so that loading the filters pays off.
    const int lane = threadIdx.x % WARP, warps = THREADS / WARP * gridDim.x;
    const int first_of_block = blockIdx.x * (THREADS / WARP);
    if (first_of_block >= blocks) return;
    for (int i = threadIdx.x; i < s.k * filter_size(s); i += THREADS) {
        const int element = divide(i, s.by_k), filter = i - element * s.k;
        filters[i] = w[filter * filter_size(s) + element];
    }
    __syncthreads();
    for (int turn = 0; turn < turns; ++turn) {
        const int block = first_of_block + threadIdx.x / WARP + turn * warps;
        if (block >= blocks) return;
        const int pixels = divide(block, s.by_c), row = pixels / wide, image = row / high;
        const int channel = block - pixels * s.c, x = 2 * (pixels - row * wide), y = 2 * (row - image * high);
        // Pooling windows whose outputs contribute to pixel (y, x), or to its neighbours on the right and below.
        const int top = max(y + s.padding - s.kh + 1, 0) / 2, bottom = min((y + s.padding + 1) / 2, s.out_h / 2 - 1);
        const int left = max(x + s.padding - s.kw + 1, 0) / 2, right = min((x + s.padding + 1) / 2, columns - 1);
        float sums[2][2] = {};
        for (int filter = lane; filter < s.k; filter += WARP) {
            for (int cell_y = top; cell_y <= bottom; ++cell_y) {
                const size_t cells = static_cast<size_t>((image * (s.out_h / 2) + cell_y) * columns) * s.k + filter;
                for (int first = left; first <= right; first += WINDOWS) {
                    int places[WINDOWS];
                    size_t at[WINDOWS];
                    bool live[WINDOWS];
                    float gradients[WINDOWS];
#pragma unroll
                    for (int i = 0; i < WINDOWS; ++i) {
                        at[i] = cells + (first + i) * s.k, live[i] = first + i <= right;
                        places[i] = live[i] ? choice[at[i]] : NO_CHOICE;
                    }
                    of_results.load(gradients, at, live);
#pragma unroll
                    for (int i = 0; i < WINDOWS; ++i) {
                        const int place = places[i];
                        const int top_y = y + s.padding - 2 * cell_y;
                        const int tap_y = place == NO_CHOICE ? OUTSIDE : top_y - place / 2;
                        const int tap_x = x + s.padding - (2 * (first + i) + place % 2);
#pragma unroll
                        for (int p = 0; p < 4; ++p) {
                            const int at_y = tap_y + p / 2, at_x = tap_x + p % 2;
                            if (static_cast<unsigned>(at_y) < static_cast<unsigned>(s.kh) &&
                                static_cast<unsigned>(at_x) < static_cast<unsigned>(s.kw)) {
                                const float weight = filters[((at_y * s.kw + at_x) * s.c + channel) * s.k + filter];
                                sums[p / 2][p % 2] = fmaf(gradients[i], weight, sums[p / 2][p % 2]);
                            }
                        }
                    }
                }
            }
        }
#pragma unroll
        for (int p = 0; p < 4; ++p) {
            const float sum = warp_sum(sums[p / 2][p % 2]);
            const int to_y = y + p / 2, to_x = x + p % 2;
            const size_t to = static_cast<size_t>((image * s.h + to_y) * s.w + to_x) * s.c + channel;
            if (lane == p && to_y < s.h && to_x < s.w) output(to, image, sum);
        }
    }
}

