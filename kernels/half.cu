// Half-precision copies of a layer's weights, which tensor cores read.
#include "prelude.cuh"
#include "vector.cuh"

constexpr int PACK_TILE = WARP;

// plain = w, rounded to halves; turned[c][taps - 1 - t][k] = w[k][t][c], the same numbers; for each weight w [k, taps,
// c]. A block turns a tile of 32 filters by 32 channels of one tap in shared memory, so that a warp reads and writes
// adjacent addresses. Blocks are numbered by weight, then by tap, then by tile of channels, then by tile of filters.
//
// 8 bytes a number, once an attack: 26 MB for LeNet5's 3136 x 1024, 8.6 us; 47 MB, 16 us for all of WideResNet-28-4.
extern "C" __global__ void __launch_bounds__(THREADS)
    pack_filters(const __grid_constant__ PackedFilters filters, const __grid_constant__ PackedSizes sizes) {
    SHARED(Half, tile, [PACK_TILE][PACK_TILE + 2]);
    constexpr int WARPS = THREADS / WARP;
    unsigned weight = 0;
    while (weight + 1 < sizes.count && sizes.first[weight + 1] <= blockIdx.x) ++weight;
    const float* w = filters.w[weight];
    Half* plain = reinterpret_cast<Half*>(filters.plain[weight]);
    Half* turned = reinterpret_cast<Half*>(filters.turned[weight]);
    const int k = sizes.k[weight], taps = sizes.taps[weight], c = sizes.c[weight];
    const int block = static_cast<int>(blockIdx.x - sizes.first[weight]);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, across = ceil_div(c, PACK_TILE);
    const int tap = block % taps, place = block / taps;
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
