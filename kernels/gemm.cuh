// A product of matrices through shared memory: what convolutions, linear layers and their gradients have in common.
//
//     out[row, column] = sum over k of A[row, k] B[k, column]
//
// A block computes a tile of `out`. It walks along k, BLOCK_TILE_DEPTH elements at a time: while it multiplies the ones that lie
// in one half of shared memory, the next BLOCK_TILE_DEPTH columns of A and rows of B are on their way to the other half. Each
// thread holds an 8 x 4 part of the tile in registers: for each k it reads 12 numbers from shared memory and does 32
// multiply-adds, so shared memory keeps up with the arithmetic.
//
// What an element of A or B is, an operand says (a small struct): a matrix, or a window of an image that is read where
// it lies. What becomes of the results, an epilogue says.
//
// Sums are blocked: after FOLD tiles along k they are added to a total and begin again. So the rounding error of a sum
// of thousands of terms stays that of short sums.
#pragma once

#include "epilogue.cuh"
#include "prelude.cuh"
#include "ptx.cuh"
#include "vector.cuh"

constexpr int FOLD = 8;
// A thread's part of a tile: two groups of QUAD rows, half a tile apart, by QUAD columns. The rows of a group follow
// one another, so that the four outputs of a pooling window can meet in one thread.
constexpr int QUAD = 4;
constexpr int GROUPS = THREAD_TILE_ROWS / QUAD;
static_assert(GROUPS == 2 && THREAD_TILE_COLUMNS == QUAD);
// Rows of shared memory are padded by so many floats: fewer of the transposing stores meet in one bank.
constexpr int PADDING = 4;

// Sizes of a block's tile. VECTOR elements are read and written at a time: 4, where everything is a multiple of it.
// INTERLEAVED says how threads are laid out in the tile (`row_of` below). src/device/cuda/lower/gemm.rs chooses among
// the first three.
template <int ROWS_, int COLUMNS_, int VECTOR_, bool INTERLEAVED_>
struct Tile {
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, VECTOR = VECTOR_;
    static constexpr bool INTERLEAVED = INTERLEAVED_;
    static constexpr int THREADS = ROWS / (GROUPS * QUAD) * (COLUMNS / QUAD);
};
using Scalar = Tile<BLOCK_TILE_ROWS, NARROW_TILE_COLUMNS, 1, false>;
using Narrow = Tile<BLOCK_TILE_ROWS, NARROW_TILE_COLUMNS, 4, true>;
using Square = Tile<BLOCK_TILE_ROWS, SQUARE_TILE_COLUMNS, 4, true>;
// For kernels where interleaving takes so many more registers that fewer blocks share a multiprocessor. `Scalar` is not
// interleaved for the same reason.
using NarrowRowMajor = Tile<BLOCK_TILE_ROWS, NARROW_TILE_COLUMNS, 4, false>;
using SquareRowMajor = Tile<BLOCK_TILE_ROWS, SQUARE_TILE_COLUMNS, 4, false>;

// Where VECTOR elements of an operand lie; if not `live` they are 0, and `from` is no address.
struct Place {
    const float* from;
    bool live;
};

// An operand has lines, which are A's rows or B's columns. It says
//     ALONG         whether a line's elements lie side by side; if not, lines do
//     line(i)       what is known of line i once and for all; i may be past the last
// and then, if it is PLAIN, which means that its elements stand in memory,
//     place(line, k)   where: VECTOR elements of the line from k on (ALONG), or element k of VECTOR lines; 0 past the
//                      last line. k may be past the end: then nobody looks there
//     data             an address that may be read
// or else
//     load(live, to, line, k)   the elements themselves; 0 past the last line, and if not `live`

// The rows of a matrix [lines, length], each along its elements.
struct Along {
    static constexpr bool ALONG = true, PLAIN = true;
    using Line = const float*;
    const float* data;
    int lines, length;

    __device__ Line line(int i) const { return i < lines ? data + static_cast<size_t>(i) * length : nullptr; }
    __device__ Place place(Line line, int k) const { return {line + k, line != nullptr}; }
};

// The columns of a matrix [length, lines].
struct Across {
    static constexpr bool ALONG = false, PLAIN = true;
    using Line = const float*;
    const float* data;
    int lines;

    __device__ Line line(int i) const { return i < lines ? data + i : nullptr; }
    __device__ Place place(Line line, int k) const {
        return {line + static_cast<size_t>(k) * lines, line != nullptr};
    }
};

// One operand's way into shared memory, `tile[BLOCK_TILE_DEPTH][LINES]`: a thread's share of it. What stands in memory as it will
// in the tile is copied there, four elements at a time; what is turned or computed goes through registers. So do single
// elements: copied one by one, they took more registers than they left.
template <class T, class Operand, int LINES>
struct Feed {
    // A vector lies along k or across lines, as in memory; so do the vectors of neighbouring threads. Single elements
    // go across lines: stores to shared memory then never meet in a bank.
    static constexpr bool ALONG = Operand::ALONG && T::VECTOR > 1;
    static constexpr bool COPIED = Operand::PLAIN && !Operand::ALONG && T::VECTOR == 4;
    static constexpr int NEIGHBOURS = (ALONG ? BLOCK_TILE_DEPTH : LINES) / T::VECTOR;
    static constexpr int STRIDE = T::THREADS / NEIGHBOURS;
    static constexpr int PASSES = LINES * BLOCK_TILE_DEPTH / T::VECTOR / T::THREADS;
    static_assert(STRIDE * NEIGHBOURS == T::THREADS && PASSES * T::THREADS * T::VECTOR == LINES * BLOCK_TILE_DEPTH);

    typename Operand::Line lines[ALONG ? PASSES : 1];
    float held[PASSES][T::VECTOR];  // unless COPIED

    __device__ static int line(int pass) {
        return ALONG ? threadIdx.x / NEIGHBOURS + pass * STRIDE : threadIdx.x % NEIGHBOURS * T::VECTOR;
    }
    __device__ static int depth(int pass) {
        return ALONG ? threadIdx.x % NEIGHBOURS * T::VECTOR : threadIdx.x / NEIGHBOURS + pass * STRIDE;
    }

    __device__ void start(const Operand& operand, int first) {
#pragma unroll
        for (int pass = 0; pass < (ALONG ? PASSES : 1); ++pass) lines[pass] = operand.line(first + line(pass));
    }

    // Sends for elements k to k + BLOCK_TILE_DEPTH; from `end` on they are 0, whatever memory holds. Nobody may read the tile.
    __device__ void fetch(const Operand& operand, int k, int end, float (*tile)[LINES + PADDING]) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int at = k + depth(pass);
            const typename Operand::Line& known = lines[ALONG ? pass : 0];
            if constexpr (Operand::PLAIN) {
                const Place place = operand.place(known, at);
                const bool live = at < end && place.live;
                if constexpr (COPIED) {
                    cp_async_16(&tile[depth(pass)][line(pass)], live ? place.from : operand.data, live);
                } else {
                    load_if(live, held[pass], place.from);
                }
            } else {
                operand.load(at < end, held[pass], known, at);
            }
        }
        if constexpr (COPIED) cp_async_commit();
    }

    // Has what was sent for in the tile. After the next barrier all threads may read it.
    __device__ void put(float (*tile)[LINES + PADDING]) const {
        if constexpr (COPIED) {
            cp_async_wait<0>();
        } else {
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) put(held[pass], &tile[depth(pass)][line(pass)]);
        }
    }

    __device__ static void put(const float (&from)[T::VECTOR], float* to) {
        if constexpr (ALONG) {
            for (int v = 0; v < T::VECTOR; ++v) to[v * (LINES + PADDING)] = from[v];
        } else if constexpr (T::VECTOR == 4) {
            *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
        } else {
            *to = from[0];
        }
    }
};

// The order of results in memory: a product's rows one after another.
struct InOrder {
    int rows;

    __device__ size_t operator()(int row) const { return row; }
};

// An epilogue: writes results [order.rows, columns] when they are finished.
template <int VECTOR, class Order = InOrder>
struct Store {
    float* out;
    int columns;
    Order order;
    Epilogue epilogue;

    // What is known of a thread's columns once and for all.
    struct Columns {
        int first;
        EpilogueColumn known[QUAD];
    };
    __device__ Columns start(int first) const {
        Columns of{first, {}};
#pragma unroll
        for (int j = 0; j < QUAD; ++j) {
            if (first + j < columns) of.known[j] = epilogue_column(epilogue, first + j);
        }
        return of;
    }

    __device__ void operator()(int row, const Columns& of, const float (*values)[QUAD]) const {
        const int rows = order.rows - row;
#pragma unroll
        for (int j = 0; j < QUAD; j += VECTOR) {
            if (of.first + j >= columns) break;
            float finished[QUAD][VECTOR];
            size_t at[QUAD];
#pragma unroll
            for (int i = 0; i < QUAD; ++i) {
                at[i] = order(row + i) * columns + of.first + j;
                for (int v = 0; v < VECTOR; ++v) finished[i][v] = values[i][j + v];
            }
            apply_epilogue(epilogue, finished, at, rows, of.known + j);
#pragma unroll
            for (int i = 0; i < QUAD; ++i) {
                if (i < rows) store_vector(out + at[i], finished[i]);
            }
        }
    }
};

// A product of A and B: each element has `length` terms.
template <class A, class B>
struct Product {
    A a;
    B b;
    int length;
};
template <class A, class B>
Product(A, B, int) -> Product<A, B>;

// A thread's place in a tile: the first of its rows in each group, and its first column. A warp covers 2 x 16 quads of
// a Square tile, 4 x 8 of a Narrow one. INTERLEAVED, the lowest bit of the row is the lowest of the thread's number:
//
//     bits of the thread   6  5  4  3  2  1  0
//     Square               r2 r1 c3 c2 c1 c0 r0
//     Narrow                  r2 r1 c2 c1 c0 r0
//
// In row-major order r0 stands between the columns and r1. The order decides how many wavefronts a warp's reads of
// shared memory take. Each lane reads 16 bytes, a warp 512; a wavefront returns 128. So a read takes four wavefronts,
// one for each 8 lanes. It takes two, one for each 16 lanes, if every lane i has the address of lane i ^ 1, or every
// lane i that of lane i ^ 2 (NVIDIA's developer forum, "Unexpected shared memory bank conflict", which says so of
// compute capability 7.0 to 7.5). For each k a warp reads A twice and B once:
//
//     order          A: same address as    B: same address as    wavefronts of A, A, B
//     row-major      lane i ^ 1            none of these two     2 + 2 + 4 = 8
//     INTERLEAVED    lane i ^ 2            lane i ^ 1            2 + 2 + 2 = 6, the fewest under this rule
//
// No bank is asked twice: 16 lanes read 8 neighbouring quads of B, which are 128 bytes, and 2 neighbouring quads of A.
// The 32 multiply-adds for each k take a quarter of an H100's multiprocessor 32 clocks. In these the four quarters ask
// for 4 x 8 = 32 wavefronts, as many as there are clocks, or for 4 x 6 = 24. These numbers follow from the rule; they
// are not measured, and that the rule holds for compute capability 8.0 and 9.0 is an assumption.
//
// A warp's results are the same rows and columns in either order: a store of the warp writes two segments of 256 bytes
// in Square, four of 128 bytes in Narrow. Each 8 lanes write two segments of 64 bytes, in whole sectors of 32 bytes; in
// row-major order they write one of 128. Results are written once, after all terms.
template <class T>
__host__ __device__ constexpr unsigned row_of(unsigned thread) {
    constexpr unsigned ACROSS = T::COLUMNS / QUAD;
    return (T::INTERLEAVED ? thread / (2 * ACROSS) * 2 + thread % 2 : thread / ACROSS) * QUAD;
}
template <class T>
__host__ __device__ constexpr unsigned column_of(unsigned thread) {
    constexpr unsigned ACROSS = T::COLUMNS / QUAD;
    return (T::INTERLEAVED ? thread / 2 : thread) % ACROSS * QUAD;
}
template <class T>
constexpr bool lanes_share_addresses() {
    for (unsigned thread = 0; thread < T::THREADS; ++thread) {
        if (row_of<T>(thread) != row_of<T>(thread ^ 2)) return false;
        if (column_of<T>(thread) != column_of<T>(thread ^ 1)) return false;
    }
    return true;
}
static_assert(lanes_share_addresses<Narrow>() && lanes_share_addresses<Square>());

template <class T>
__device__ __forceinline__ int row_of_thread() {
    return row_of<T>(threadIdx.x);
}
template <class T>
__device__ __forceinline__ int column_of_thread() {
    return column_of<T>(threadIdx.x);
}

// Both halves of the shared memory of a block's tiles of A and B.
template <class T>
using RowTiles = float (*)[BLOCK_TILE_DEPTH][T::ROWS + PADDING];
template <class T>
using ColumnTiles = float (*)[BLOCK_TILE_DEPTH][T::COLUMNS + PADDING];

// Adds terms `first` to `end` of a product to a thread's part of the tile at row0, column0.
template <class T, class A, class B>
__device__ __forceinline__ void accumulate(
    float (&total)[GROUPS * QUAD][QUAD], const Product<A, B>& product, int row0, int column0, int first, int end,
    RowTiles<T> a_tile, ColumnTiles<T> b_tile) {
    const int tiles = end > first ? ceil_div(end - first, BLOCK_TILE_DEPTH) : 0;
    if (tiles == 0) return;
    Feed<T, A, T::ROWS> a_feed;
    Feed<T, B, T::COLUMNS> b_feed;
    a_feed.start(product.a, row0);
    b_feed.start(product.b, column0);
    a_feed.fetch(product.a, first, end, a_tile[0]);
    b_feed.fetch(product.b, first, end, b_tile[0]);
    a_feed.put(a_tile[0]);
    b_feed.put(b_tile[0]);
    __syncthreads();

    const int row = row_of_thread<T>(), column = column_of_thread<T>();
    float sum[GROUPS * QUAD][QUAD] = {};
    for (int tile = 0; tile < tiles; ++tile) {
        const int now = tile % 2, next = 1 - now;
        if (tile + 1 < tiles) {  // the other half was last read before the barrier that ended the last turn
            a_feed.fetch(product.a, first + (tile + 1) * BLOCK_TILE_DEPTH, end, a_tile[next]);
            b_feed.fetch(product.b, first + (tile + 1) * BLOCK_TILE_DEPTH, end, b_tile[next]);
        }
#pragma unroll
        for (int k = 0; k < BLOCK_TILE_DEPTH; ++k) {
            float of_a[GROUPS][QUAD], of_b[QUAD];
            for (int g = 0; g < GROUPS; ++g) load_vector(of_a[g], &a_tile[now][k][g * (T::ROWS / GROUPS) + row]);
            load_vector(of_b, &b_tile[now][k][column]);
#pragma unroll
            for (int i = 0; i < GROUPS * QUAD; ++i) {
#pragma unroll
                for (int j = 0; j < QUAD; ++j) sum[i][j] = fmaf(of_a[i / QUAD][i % QUAD], of_b[j], sum[i][j]);
            }
        }
        if (tile % FOLD == FOLD - 1 || tile + 1 == tiles) {
#pragma unroll
            for (int i = 0; i < GROUPS * QUAD; ++i) {
#pragma unroll
                for (int j = 0; j < QUAD; ++j) total[i][j] += sum[i][j], sum[i][j] = 0.0f;
            }
        }
        if (tile + 1 < tiles) {
            a_feed.put(a_tile[next]);
            b_feed.put(b_tile[next]);
        }
        __syncthreads();
    }
}

// A block's tile of the sum of products of `rows` by `columns`, of its share of their terms: blocks are numbered along
// x by columns, then by rows of tiles; along y by shares of `chunk` terms each (a multiple of BLOCK_TILE_DEPTH), of the products
// one after another. Calls `output(row, output.start(column), values[QUAD][QUAD])` for each of a thread's groups;
// it must mind the edges. Blocks that have no row leave at once; a share without terms gives zeros.
template <class T, class Output, class... Products>
__device__ __forceinline__ void gemm(
    int rows, int columns, int chunk, const Output& output, const Products&... products) {
    SHARED(float, a_tile, [2][BLOCK_TILE_DEPTH][T::ROWS + PADDING]);
    SHARED(float, b_tile, [2][BLOCK_TILE_DEPTH][T::COLUMNS + PADDING]);
    const int across = ceil_div(columns, T::COLUMNS);
    const int row0 = blockIdx.x / across * T::ROWS, column0 = blockIdx.x % across * T::COLUMNS;
    if (row0 >= rows) return;
    float total[GROUPS * QUAD][QUAD] = {};
    int first = blockIdx.y * chunk, end = first + chunk;
    const auto add = [&](const auto& product) {
        accumulate<T>(total, product, row0, column0, max(first, 0), min(end, product.length), a_tile, b_tile);
        first -= product.length, end -= product.length;
    };
    (add(products), ...);
    const auto known = output.start(column0 + column_of_thread<T>());
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) {
        output(row0 + g * (T::ROWS / GROUPS) + row_of_thread<T>(), known, total + g * QUAD);
    }
}
