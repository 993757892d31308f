// Gradients with respect to weights on tensor cores: a matrix product of halves whose sums run over the outputs or rows
// of a batch. So both operands are MN-major. Results are floats.
//
// A block computes a block tile of 64 x 128, each of its four warps 64 x 32. It walks along k as gemm_half.cuh does. A
// stage of an operand has a line for each k, of adjacent halves of its rows or columns, and ldmatrix transposes what it
// loads. Line k has its 16-byte chunks in the order c ^ (k % 8): eight lines of one chunk, which ldmatrix reads at once,
// then lie in different banks.
//
// For each k, a warp reads 64 + 32 halves from shared memory: four warps 768 bytes. The copies write 384. At 128 bytes a
// clock that takes 9 clocks, and the 8,192 multiply-adds take the tensor cores 8 at 1,024 a clock.
#pragma once

#include "gemm_half.cuh"

// Shape of a block tile of one row of warps. VECTOR: elements that are read at once, and two results written.
template <int VECTOR_>
struct WeightTileShape {
    static constexpr int ROWS = HALF_TILE_ROWS, COLUMNS = HALF_TILE_COLUMNS_WIDE, VECTOR = VECTOR_;
    static constexpr int WARPS_ACROSS = COLUMNS / PATCH, THREADS = WARPS_ACROSS * WARP;
    static constexpr int WARP_ROWS = ROWS, WARP_COLUMNS = PATCH;
    static_assert(STAGES * (ROWS + COLUMNS) * HALF_TILE_DEPTH * sizeof(Half) <= 48 << 10, "static shared memory");
};
using WeightScalar = WeightTileShape<1>;
using WeightWide = WeightTileShape<CHUNK>;

// Place of a chunk in a stage whose lines have LINE halves, in halves.
template <int LINE>
__device__ __forceinline__ int mn_chunk_place(int k, int chunk) {
    return k * LINE + (chunk ^ k % 8) * CHUNK;
}

// One thread's part of copying an operand's tile to a stage: one chunk of LINE rows or columns, of every STRIDE-th k.
template <class T, class Operand, int LINE>
struct MnTileLoader {
    static_assert(!Operand::K_MAJOR);
    static constexpr bool ASYNCHRONOUS = Operand::IN_MEMORY && T::VECTOR == CHUNK;
    static constexpr int ACROSS = LINE / CHUNK, STRIDE = T::THREADS / ACROSS, PASSES = HALF_TILE_DEPTH / STRIDE;
    static_assert(STRIDE * ACROSS == T::THREADS && PASSES * STRIDE == HALF_TILE_DEPTH);

    int first;                    // row or column of the chunk's first element
    typename Operand::Line line;  // of a chunk that is read at once
    uint4 held[ASYNCHRONOUS ? 1 : PASSES];  // between `issue` and `complete`

    __device__ static int chunk() { return threadIdx.x % ACROSS; }
    __device__ static int depth(int pass) { return threadIdx.x / ACROSS + pass * STRIDE; }

    // Locates the chunk in the tile whose first row or column is `tile`.
    __device__ void locate(const Operand& operand, int tile) {
        first = tile + chunk() * CHUNK;
        if constexpr (T::VECTOR == CHUNK) line = operand.line(first);
    }

    // Starts loading elements k to k + HALF_TILE_DEPTH; from `end` on they are 0, whatever memory holds.
    __device__ void issue(const Operand& operand, int k, int end, Half* stage) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int at = k + depth(pass);
            if constexpr (ASYNCHRONOUS) {
                const ElementAddress address = operand.address(line, at);
                const bool live = at < end && address.live;
                cp_async_16(stage + mn_chunk_place<LINE>(depth(pass), chunk()), live ? address.from : operand.data,
                            live);
            } else {
                float numbers[CHUNK];
                if constexpr (T::VECTOR == CHUNK) {
                    operand.load(at < end, numbers, line, at);
                } else {
                    // Lines of single elements are located again: kept, they would not fit the registers.
#pragma unroll
                    for (int v = 0; v < CHUNK; ++v) {
                        float(&one)[1] = *reinterpret_cast<float(*)[1]>(numbers + v);
                        const typename Operand::Line own = operand.line(first + v);
                        if constexpr (Operand::IN_MEMORY) {
                            const ElementAddress address = operand.address(own, at);
                            load_if(at < end && address.live, one, address.from);
                        } else {
                            operand.load(at < end, one, own, at);
                        }
                    }
                }
                held[pass] = half_chunk_of(numbers);
            }
        }
    }

    // Stores what went through registers. All threads may read the stage after the copies' wait and a barrier.
    __device__ void complete(Half* stage) const {
        if constexpr (!ASYNCHRONOUS) {
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) {
                *reinterpret_cast<uint4*>(stage + mn_chunk_place<LINE>(depth(pass), chunk())) = held[pass];
            }
        }
    }
};

// Adds the products of a stage to a warp's sums.
template <class T>
__device__ __forceinline__ void multiply_transposed(WarpTile<T>& tile, const Half* a_stage, const Half* b_stage) {
    constexpr int DOWN = WarpTile<T>::DOWN, ACROSS = WarpTile<T>::ACROSS;
    const int lane = threadIdx.x % WARP;
    const int a_chunk = tile.first_row() / CHUNK + lane / 8 % 2, a_k = lane / 16 * 8 + lane % 8;
    const int b_chunk = tile.first_column() / CHUNK + lane / 16, b_k = lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
    for (int k = 0; k < HALF_TILE_DEPTH; k += 16) {
        unsigned a[DOWN][4], b[ACROSS][2];
#pragma unroll
        for (int i = 0; i < DOWN; ++i) {
            ldmatrix_x4_trans(a[i], a_stage + mn_chunk_place<T::ROWS>(k + a_k, a_chunk + 2 * i));
        }
#pragma unroll
        for (int i = 0; i < ACROSS; i += 2) {
            unsigned two[4];
            ldmatrix_x4_trans(two, b_stage + mn_chunk_place<T::COLUMNS>(k + b_k, b_chunk + i));
            b[i][0] = two[0], b[i][1] = two[1], b[i + 1][0] = two[2], b[i + 1][1] = two[3];
        }
        mma(tile.sums, a, b);
    }
}

// Computes a block tile of `out` [rows, columns] over one split of the terms, with blocks and splits numbered as those
// of `gemm`. A split without terms gives zeros.
template <class T, class A, class B>
__device__ __forceinline__ void gemm_half_weight(
    float* out, int rows, int columns, int chunk, const GemmOperands<A, B>& product) {
    SHARED(Half, a_stages, [STAGES][T::ROWS * HALF_TILE_DEPTH]);
    SHARED(Half, b_stages, [STAGES][T::COLUMNS * HALF_TILE_DEPTH]);
    const int across = ceil_div(columns, T::COLUMNS);
    const int row0 = blockIdx.x / across * T::ROWS, column0 = blockIdx.x % across * T::COLUMNS;
    const int first = blockIdx.y * chunk, end = min(first + chunk, product.length);
    WarpTile<T> tile;
    MnTileLoader<T, A, T::ROWS> a_loader;
    MnTileLoader<T, B, T::COLUMNS> b_loader;
    a_loader.locate(product.a, row0);
    b_loader.locate(product.b, column0);
    walk_stages(
        end > first ? ceil_div(end - first, HALF_TILE_DEPTH) : 0,
        [&](int step, int stage) {
            a_loader.issue(product.a, first + step * HALF_TILE_DEPTH, end, a_stages[stage]);
            b_loader.issue(product.b, first + step * HALF_TILE_DEPTH, end, b_stages[stage]);
        },
        [&](int stage) { a_loader.complete(a_stages[stage]), b_loader.complete(b_stages[stage]); },
        [&](int stage) { multiply_transposed(tile, a_stages[stage], b_stages[stage]); });

    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < 2 * WarpTile<T>::DOWN; ++i) {
        const int row = row0 + tile.first_row() + 8 * i + lane / 4;
        if (row >= rows) continue;
#pragma unroll
        for (int j = 0; j < WarpTile<T>::ACROSS; ++j) {
            const int column = column0 + tile.first_column() + 8 * j + lane % 4 * 2;
            float* to = out + static_cast<size_t>(row) * columns + column;
            const float sums[2] = {tile.sums[i / 2][j][i % 2 * 2], tile.sums[i / 2][j][i % 2 * 2 + 1]};
            if constexpr (T::VECTOR == CHUNK) {
                if (column < columns) *reinterpret_cast<float2*>(to) = make_float2(sums[0], sums[1]);
            } else {
                if (column < columns) to[0] = sums[0];
                if (column + 1 < columns) to[1] = sums[1];
            }
        }
    }
}
