// A matrix product (GEMM) through shared memory: the base of convolutions, linear layers and their gradients.
//
//     out[row, column] = sum over k of A[row, k] B[k, column]
//
// A block computes a block tile of `out`. It walks along k, BLOCK_TILE_DEPTH elements at a time, with two stages of
// shared memory: while it multiplies the elements of one stage, tile loaders fill the other stage with the next
// BLOCK_TILE_DEPTH columns of A and rows of B. Each thread holds a thread tile of 8 x 4 sums in registers. For each k
// it loads 12 numbers from shared memory (the fragments of A and B) and does 32 multiply-adds, so shared memory keeps
// up with the arithmetic.
//
// An operand (a small struct) gives the elements of A or B: a matrix, or the windows of images (implicit GEMM). An
// output (another small struct) receives the sums: it applies the epilogue and writes the results.
//
// Sums are blocked: after TILES_PER_PARTIAL_SUM tiles along k they are added to a total and start from 0 again. So the
// rounding error of a sum of thousands of terms stays that of short sums.
#pragma once

#include "epilogue.cuh"
#include "prelude.cuh"
#include "ptx.cuh"
#include "vector.cuh"

constexpr int TILES_PER_PARTIAL_SUM = 8;
// A thread tile is ROW_GROUPS groups of QUAD rows, half a block tile apart, by QUAD columns. The rows of a group are
// adjacent, so that the four outputs of a pooling window are in one thread.
constexpr int QUAD = 4;
constexpr int ROW_GROUPS = THREAD_TILE_ROWS / QUAD;
static_assert(ROW_GROUPS == 2 && THREAD_TILE_COLUMNS == QUAD);
// Padding of each row of a stage of shared memory, in floats: fewer bank conflicts among the transposing stores.
constexpr int SHARED_PADDING = 4;

// Shape of a block tile. VECTOR elements are read and written at once: 4 where all sizes are multiples of it.
// INTERLEAVED selects the arrangement of the threads in the tile (`row_of` below). src/device/cuda/lower/gemm.rs
// chooses among the first three shapes.
template <int ROWS_, int COLUMNS_, int VECTOR_, bool INTERLEAVED_>
struct TileShape {
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, VECTOR = VECTOR_;
    static constexpr bool INTERLEAVED = INTERLEAVED_;
    static constexpr int THREADS = ROWS / (ROW_GROUPS * QUAD) * (COLUMNS / QUAD);
};
using Scalar = TileShape<BLOCK_TILE_ROWS, NARROW_TILE_COLUMNS, 1, false>;
using Narrow = TileShape<BLOCK_TILE_ROWS, NARROW_TILE_COLUMNS, 4, true>;
using Square = TileShape<BLOCK_TILE_ROWS, SQUARE_TILE_COLUMNS, 4, true>;
// Shapes for kernels where interleaving takes so many more registers that fewer blocks fit a multiprocessor. `Scalar`
// is not interleaved for the same reason.
using NarrowRowMajor = TileShape<BLOCK_TILE_ROWS, NARROW_TILE_COLUMNS, 4, false>;
using SquareRowMajor = TileShape<BLOCK_TILE_ROWS, SQUARE_TILE_COLUMNS, 4, false>;

// Address of VECTOR elements of an operand, floats or halves. If not `live` the elements are 0, and `from` must not be
// read.
template <class Element>
struct ElementAddress {
    const Element* from;
    bool live;
};
template <class Element>
ElementAddress(const Element*, bool) -> ElementAddress<Element>;

// An operand has lines: the rows of A, or the columns of B. Its members are
//     K_MAJOR       true: the elements of a line are adjacent in memory; false: the lines are (MN-major)
//     IN_MEMORY     true: the elements are loaded from memory as they are; false: they are computed
//     line(i)       the part of an address that depends on the line alone, computed once; i may be past the last line
// An operand that is IN_MEMORY has
//     address(line, k)   address of VECTOR elements of the line from k on (K_MAJOR), or of element k of VECTOR lines;
//                        not live past the last line. k may be past the end: the result is then not used
//     data               any address that may be read
// another one has
//     load(live, to, line, k)   loads the elements: 0 past the last line, and 0 if not `live`

// Rows of a matrix [lines, length].
template <class Element>
struct KMajor {
    static constexpr bool K_MAJOR = true, IN_MEMORY = true;
    using Line = const Element*;
    const Element* data;
    int lines, length;

    __device__ Line line(int i) const { return i < lines ? data + static_cast<size_t>(i) * length : nullptr; }
    __device__ ElementAddress<Element> address(Line line, int k) const { return {line + k, line != nullptr}; }
};
template <class Element>
KMajor(const Element*, int, int) -> KMajor<Element>;

// Columns of a matrix [length, lines].
template <class Element>
struct MnMajor {
    static constexpr bool K_MAJOR = false, IN_MEMORY = true;
    using Line = const Element*;
    const Element* data;
    int lines;

    __device__ Line line(int i) const { return i < lines ? data + i : nullptr; }
    __device__ ElementAddress<Element> address(Line line, int k) const {
        return {line + static_cast<size_t>(k) * lines, line != nullptr};
    }
};
template <class Element>
MnMajor(const Element*, int) -> MnMajor<Element>;

// Tile loader: one thread's part of copying an operand's tile to shared memory, `tile[BLOCK_TILE_DEPTH][LINES]`.
// Elements that have the tile's order in memory are copied asynchronously (cp.async), four at a time. Elements that are
// transposed or computed go through registers. So do single elements: asynchronous copies of 4 bytes took more
// registers than they saved.
template <class T, class Operand, int LINES>
struct TileLoader {
    // A vector runs along k or across lines, as in memory, and so do the vectors of neighbouring threads. Single
    // elements run across lines: then stores to shared memory have no bank conflicts.
    static constexpr bool K_MAJOR = Operand::K_MAJOR && T::VECTOR > 1;
    static constexpr bool ASYNCHRONOUS = Operand::IN_MEMORY && !Operand::K_MAJOR && T::VECTOR == 4;
    static constexpr int NEIGHBOURS = (K_MAJOR ? BLOCK_TILE_DEPTH : LINES) / T::VECTOR;
    static constexpr int STRIDE = T::THREADS / NEIGHBOURS;
    static constexpr int PASSES = LINES * BLOCK_TILE_DEPTH / T::VECTOR / T::THREADS;
    static_assert(STRIDE * NEIGHBOURS == T::THREADS && PASSES * T::THREADS * T::VECTOR == LINES * BLOCK_TILE_DEPTH);

    typename Operand::Line lines[K_MAJOR ? PASSES : 1];
    float held[PASSES][T::VECTOR];  // between `issue` and `complete`, unless ASYNCHRONOUS

    __device__ static int line(int pass) {
        return K_MAJOR ? threadIdx.x / NEIGHBOURS + pass * STRIDE : threadIdx.x % NEIGHBOURS * T::VECTOR;
    }
    __device__ static int depth(int pass) {
        return K_MAJOR ? threadIdx.x % NEIGHBOURS * T::VECTOR : threadIdx.x / NEIGHBOURS + pass * STRIDE;
    }

    // Computes the lines of the tile whose first line is `first`.
    __device__ void locate_lines(const Operand& operand, int first) {
#pragma unroll
        for (int pass = 0; pass < (K_MAJOR ? PASSES : 1); ++pass) lines[pass] = operand.line(first + line(pass));
    }

    // Starts loading elements k to k + BLOCK_TILE_DEPTH; from `end` on they are 0, whatever memory holds. No thread may
    // read the tile until `complete` and a barrier.
    __device__ void issue(const Operand& operand, int k, int end, float (*tile)[LINES + SHARED_PADDING]) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int at = k + depth(pass);
            const typename Operand::Line& known = lines[K_MAJOR ? pass : 0];
            if constexpr (Operand::IN_MEMORY) {
                const ElementAddress address = operand.address(known, at);
                const bool live = at < end && address.live;
                if constexpr (ASYNCHRONOUS) {
                    cp_async_16(&tile[depth(pass)][line(pass)], live ? address.from : operand.data, live);
                } else {
                    load_if(live, held[pass], address.from);
                }
            } else {
                operand.load(at < end, held[pass], known, at);
            }
        }
        if constexpr (ASYNCHRONOUS) cp_async_commit();
    }

    // Waits until the elements have arrived in the tile. After the next barrier all threads may read it.
    __device__ void complete(float (*tile)[LINES + SHARED_PADDING]) const {
        if constexpr (ASYNCHRONOUS) {
            cp_async_wait<0>();
        } else {
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) store(held[pass], &tile[depth(pass)][line(pass)]);
        }
    }

    __device__ static void store(const float (&from)[T::VECTOR], float* to) {
        if constexpr (K_MAJOR) {
            for (int v = 0; v < T::VECTOR; ++v) to[v * (LINES + SHARED_PADDING)] = from[v];
        } else if constexpr (T::VECTOR == 4) {
            *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
        } else {
            *to = from[0];
        }
    }
};

// Order of the results' rows in memory: the order of the product's rows.
struct RowOrder {
    int rows;

    __device__ size_t operator()(int row) const { return row; }
};

// Output that applies an epilogue and writes results [order.rows, columns].
template <int VECTOR, class Order = RowOrder, class Element = float>
struct TileStore {
    Element* out;
    int columns;
    Order order;
    Epilogue epilogue;

    // A thread's columns, which all of its rows share.
    struct Columns {
        int first;
        EpilogueColumn column[QUAD];
    };
    __device__ Columns start(int first) const {
        Columns of{first, {}};
#pragma unroll
        for (int j = 0; j < QUAD; ++j) {
            if (first + j < columns) of.column[j] = epilogue_column(epilogue, first + j);
        }
        return of;
    }

    __device__ void operator()(int row, const Columns& of, const float (*values)[QUAD]) const {
        const int rows = order.rows - row;
#pragma unroll
        for (int j = 0; j < QUAD; j += VECTOR) {
            if (of.first + j >= columns) break;
            float results[QUAD][VECTOR];
            size_t at[QUAD];
#pragma unroll
            for (int i = 0; i < QUAD; ++i) {
                at[i] = order(row + i) * columns + of.first + j;
                for (int v = 0; v < VECTOR; ++v) results[i][v] = values[i][j + v];
            }
            apply_epilogue<Element>(epilogue, results, at, rows, of.column + j);
#pragma unroll
            for (int i = 0; i < QUAD; ++i) {
                if (i < rows) store_vector(out + at[i], results[i]);
            }
        }
    }
};

// Operands of a product whose sums have `length` terms.
template <class A, class B>
struct GemmOperands {
    A a;
    B b;
    int length;
};
template <class A, class B>
GemmOperands(A, B, int) -> GemmOperands<A, B>;

// Position of a thread tile in the block tile: its first row in each group, and its first column. A warp tile is 2 x 16
// quads of a Square block tile, 4 x 8 of a Narrow one. INTERLEAVED: the lowest bit of the row is the lowest bit of the
// thread's number:
//
//     bits of the thread   6  5  4  3  2  1  0
//     Square               r2 r1 c3 c2 c1 c0 r0
//     Narrow                  r2 r1 c2 c1 c0 r0
//
// In row-major order r0 is between the column bits and r1. The order decides how many wavefronts a warp's loads from
// shared memory take. Each lane loads 16 bytes, a warp 512; a wavefront returns 128. So a load takes four wavefronts,
// one for each 8 lanes. It takes two, one for each 16 lanes, if every lane i has the address of lane i ^ 1, or every
// lane i that of lane i ^ 2 (NVIDIA's developer forum, "Unexpected shared memory bank conflict", on compute
// capability 7.0 to 7.5). For each k a warp loads two fragments of A and one of B:
//
//     order          A: same address as    B: same address as    wavefronts of A, A, B
//     row-major      lane i ^ 1            none of these two     2 + 2 + 4 = 8
//     INTERLEAVED    lane i ^ 2            lane i ^ 1            2 + 2 + 2 = 6, the fewest under this rule
//
// There are no bank conflicts: 16 lanes load 8 neighbouring quads of B, which are 128 bytes, and 2 neighbouring quads
// of A. The 32 multiply-adds for each k take a sub-partition of an H100's multiprocessor 32 clocks. In these clocks the
// four sub-partitions need 4 x 8 = 32 wavefronts, as many as there are clocks, or 4 x 6 = 24.
//
// On an H200 (compute capability 9.0) the rule seems not to hold. There a product of 2048 x 2048 x 2048 takes 893 clocks
// of a multiprocessor for each 16 terms of a Square block tile (38.4 TFLOP/s at 1.98 GHz). With four wavefronts a load,
// the loads of four warps take 16 x 4 x 12 = 768 clocks and the stores to shared memory 128: 896 in all. Under the rule
// the multiply-adds, 512 clocks, would bound it. No hardware counter has confirmed this yet.
//
// A warp tile is the same in either order: a store of the warp writes two segments of 256 bytes in Square, four of 128
// bytes in Narrow. Each 8 lanes write two segments of 64 bytes, in whole sectors of 32 bytes; in row-major order they
// write one of 128. Results are written once, after all terms.
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

// Both stages of the tiles of A and B in shared memory.
template <class T>
using RowTiles = float (*)[BLOCK_TILE_DEPTH][T::ROWS + SHARED_PADDING];
template <class T>
using ColumnTiles = float (*)[BLOCK_TILE_DEPTH][T::COLUMNS + SHARED_PADDING];

// Adds terms `first` to `end` of a product to a thread tile of the block tile at row0, column0.
template <class T, class A, class B>
__device__ __forceinline__ void accumulate(
    float (&total)[ROW_GROUPS * QUAD][QUAD], const GemmOperands<A, B>& product, int row0, int column0, int first,
    int end, RowTiles<T> a_tile, ColumnTiles<T> b_tile) {
    const int tiles = end > first ? ceil_div(end - first, BLOCK_TILE_DEPTH) : 0;
    if (tiles == 0) return;
    TileLoader<T, A, T::ROWS> a_loader;
    TileLoader<T, B, T::COLUMNS> b_loader;
    a_loader.locate_lines(product.a, row0);
    b_loader.locate_lines(product.b, column0);
    a_loader.issue(product.a, first, end, a_tile[0]);
    b_loader.issue(product.b, first, end, b_tile[0]);
    a_loader.complete(a_tile[0]);
    b_loader.complete(b_tile[0]);
    __syncthreads();

    const int row = row_of_thread<T>(), column = column_of_thread<T>();
    float sum[ROW_GROUPS * QUAD][QUAD] = {};
    for (int tile = 0; tile < tiles; ++tile) {
        const int now = tile % 2, next = 1 - now;
        if (tile + 1 < tiles) {  // the other stage was last read before the barrier that ended the last iteration
            a_loader.issue(product.a, first + (tile + 1) * BLOCK_TILE_DEPTH, end, a_tile[next]);
            b_loader.issue(product.b, first + (tile + 1) * BLOCK_TILE_DEPTH, end, b_tile[next]);
        }
#pragma unroll
        for (int k = 0; k < BLOCK_TILE_DEPTH; ++k) {
            float a_fragment[ROW_GROUPS][QUAD], b_fragment[QUAD];
            for (int g = 0; g < ROW_GROUPS; ++g) {
                load_vector(a_fragment[g], &a_tile[now][k][g * (T::ROWS / ROW_GROUPS) + row]);
            }
            load_vector(b_fragment, &b_tile[now][k][column]);
#pragma unroll
            for (int i = 0; i < ROW_GROUPS * QUAD; ++i) {
#pragma unroll
                for (int j = 0; j < QUAD; ++j) {
                    sum[i][j] = fmaf(a_fragment[i / QUAD][i % QUAD], b_fragment[j], sum[i][j]);
                }
            }
        }
        if (tile % TILES_PER_PARTIAL_SUM == TILES_PER_PARTIAL_SUM - 1 || tile + 1 == tiles) {
#pragma unroll
            for (int i = 0; i < ROW_GROUPS * QUAD; ++i) {
#pragma unroll
                for (int j = 0; j < QUAD; ++j) total[i][j] += sum[i][j], sum[i][j] = 0.0f;
            }
        }
        if (tile + 1 < tiles) {
            a_loader.complete(a_tile[next]);
            b_loader.complete(b_tile[next]);
        }
        __syncthreads();
    }
}

// Computes a block tile of the sum of several products, `rows` by `columns`, over one split of their terms. Blocks are
// numbered along x by column tiles, then by row tiles; along y by splits of `chunk` terms each (a multiple of
// BLOCK_TILE_DEPTH), of the products one after another. Calls `output(row, output.start(column), values[QUAD][QUAD])`
// for each group of a thread tile; `output` has to leave out rows and columns past the edges. Blocks without a row
// leave at once. A split without terms gives zeros.
template <class T, class Output, class... Products>
__device__ __forceinline__ void gemm(
    int rows, int columns, int chunk, const Output& output, const Products&... products) {
    SHARED(float, a_tile, [2][BLOCK_TILE_DEPTH][T::ROWS + SHARED_PADDING]);
    SHARED(float, b_tile, [2][BLOCK_TILE_DEPTH][T::COLUMNS + SHARED_PADDING]);
    const int across = ceil_div(columns, T::COLUMNS);
    const int row0 = blockIdx.x / across * T::ROWS, column0 = blockIdx.x % across * T::COLUMNS;
    if (row0 >= rows) return;
    float total[ROW_GROUPS * QUAD][QUAD] = {};
    int first = blockIdx.y * chunk, end = first + chunk;
    const auto add = [&](const auto& product) {
        accumulate<T>(total, product, row0, column0, max(first, 0), min(end, product.length), a_tile, b_tile);
        first -= product.length, end -= product.length;
    };
    (add(products), ...);
    const auto thread_columns = output.start(column0 + column_of_thread<T>());
#pragma unroll
    for (int g = 0; g < ROW_GROUPS; ++g) {
        output(row0 + g * (T::ROWS / ROW_GROUPS) + row_of_thread<T>(), thread_columns, total + g * QUAD);
    }
}
