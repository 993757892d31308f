// Half-precision copies of a layer's weights, which tensor cores read.
#include "prelude.cuh"
#include "vector.cuh"

constexpr int PACK_TILE = WARP;

// plain = w, rounded to halves; turned[c][taps - 1 - t][k] = w[k][t][c], the same numbers. w is [k, taps, c]. A block
// turns a tile of 32 filters by 32 channels of one tap in shared memory, so that a warp reads and writes adjacent
// addresses. Blocks are numbered by tap, then by tile of channels, then by tile of filters.
//
// 8 bytes a number, once an attack: 26 MB for LeNet5's 3136 x 1024, 8.6 us; 47 MB, 16 us for all of WideResNet-28-4.
extern "C" __global__ void __launch_bounds__(THREADS)
    pack_filters(Half* __restrict__ plain, Half* __restrict__ turned, const float* __restrict__ w, int k, int taps,
                 int c) {
    SHARED(Half, tile, [PACK_TILE][PACK_TILE + 2]);
    constexpr int WARPS = THREADS / WARP;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, across = ceil_div(c, PACK_TILE);
    const int tap = blockIdx.x % taps, place = blockIdx.x / taps;
    const int channel0 = place % across * PACK_TILE, filter0 = place / across * PACK_TILE;
    for (int row = warp; row < PACK_TILE; row += WARPS) {
        const int filter = filter0 + row, channel = channel0 + lane;
        if (filter >= k || channel >= c) continue;
        const size_t at = (static_cast<size_t>(filter) * taps + tap) * c + channel;
        const Half half = {half_of(w[at])};
        plain[at] = half;
        tile[row][lane] = half;
    }
    __syncthreads();
    for (int row = warp; row < PACK_TILE; row += WARPS) {
        const int filter = filter0 + lane, channel = channel0 + row;
        if (filter >= k || channel >= c) continue;
        turned[(static_cast<size_t>(channel) * taps + taps - 1 - tap) * k + filter] = tile[lane][row];
    }
}
