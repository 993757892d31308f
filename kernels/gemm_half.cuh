// A matrix product of halves on tensor cores: gemm.cuh with other tiles. Sums are floats, and operands and outputs are
// those of gemm.cuh and conv.cuh.
//
// A block computes a block tile, each of its warps a part of 32 columns. It walks along k, HALF_TILE_DEPTH elements at
// a time, through STAGES stages of shared memory: while the warps multiply one stage, copies into the next STAGES - 1
// are pending. A line of a stage (a row of A or a column of B) is HALF_TILE_DEPTH adjacent halves, 64 bytes, so both
// operands are K-major. A warp loads 16 x 16 fragments of A and B (ldmatrix) and multiplies them (mma).
//
// Line l of a stage has its four 16-byte chunks in the order c ^ (l / 2 % 4): eight lines of one chunk, which ldmatrix
// reads at once, then lie in different banks.
//
// Lines are permuted so that a thread's results suit its stores. Columns: of each 32, a thread holds 8 adjacent ones,
// which it writes as 16 bytes. Rows: of each 32, a thread holds 4, a distance of 8 apart; with pooling, these are the
// four outputs of a window.
#pragma once

#include "channel_sums.cuh"
#include "conv.cuh"

constexpr int STAGES = 4;
// Resident blocks a multiprocessor, at least, of kernels that load single elements, and of one that loads gradients of
// pooling into a narrow tile: the compiler by default aims at more, and spills registers.
constexpr int HALF_RESIDENT_BLOCKS = 2;
// Halves that are copied at once, 16 bytes; chunks of a line of a stage.
constexpr int CHUNK = 8, CHUNKS = HALF_TILE_DEPTH / CHUNK;
// Results of a thread for each 32 x 32 of a warp tile.
constexpr int THREAD_ROWS = 4, THREAD_COLUMNS = 8, ROW_DISTANCE = 8, PATCH = 32;
static_assert(THREAD_ROWS == PLACES);

// Shape of a block tile, of two warp tiles one above the other for each 32 columns. VECTOR: elements that are read and
// written at once.
template <int ROWS_, int COLUMNS_, int VECTOR_>
struct HalfTileShape {
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, VECTOR = VECTOR_;
    static constexpr int WARPS_DOWN = 2, WARPS_ACROSS = COLUMNS / PATCH, THREADS = WARPS_DOWN * WARPS_ACROSS * WARP;
    static constexpr int WARP_ROWS = ROWS / WARPS_DOWN, WARP_COLUMNS = COLUMNS / WARPS_ACROSS;
    static_assert(WARP_COLUMNS == PATCH && WARP_ROWS % PATCH == 0);
    static_assert(STAGES * (ROWS + COLUMNS) * HALF_TILE_DEPTH * sizeof(Half) <= 48 << 10, "static shared memory");
};
using HalfScalar = HalfTileShape<HALF_TILE_ROWS, HALF_TILE_COLUMNS, 1>;
using HalfSmall = HalfTileShape<HALF_TILE_ROWS, HALF_TILE_COLUMNS, CHUNK>;
using HalfTall = HalfTileShape<HALF_TILE_ROWS_TALL, HALF_TILE_COLUMNS, CHUNK>;
using HalfNarrow = HalfTileShape<HALF_TILE_ROWS, HALF_TILE_COLUMNS_NARROW, CHUNK>;

// A row of a block tile, by its line in shared memory. POOLED: rows 4 w to 4 w + 3 are the outputs of window w.
template <bool POOLED>
__host__ __device__ constexpr int row_of_line(int line) {
    const int at = line % PATCH;
    return POOLED ? line - at + at % ROW_DISTANCE * PLACES + at / ROW_DISTANCE : line;
}

// A column of a block tile, by its line in shared memory.
__host__ __device__ constexpr int column_of_line(int line) {
    const int at = line % PATCH;
    return line - at + at % 8 / 2 * THREAD_COLUMNS + at / 8 * 2 + at % 2;
}

// Place of a chunk in a stage, in halves.
__device__ __forceinline__ int chunk_place(int line, int chunk) {
    return line * HALF_TILE_DEPTH + (chunk ^ line / 2 % CHUNKS) * CHUNK;
}

// Rounds the numbers of a chunk to halves.
__device__ __forceinline__ uint4 half_chunk_of(const float (&numbers)[CHUNK]) {
    return make_uint4(half_pair_of(numbers[0], numbers[1]), half_pair_of(numbers[2], numbers[3]),
                      half_pair_of(numbers[4], numbers[5]), half_pair_of(numbers[6], numbers[7]));
}

// One thread's part of copying an operand's tile to a stage: one chunk of every STRIDE-th line. Chunks that lie in
// memory are copied asynchronously; others go through registers.
template <class T, class Operand, int LINES>
struct HalfTileLoader {
    static_assert(Operand::K_MAJOR);
    static constexpr bool ASYNCHRONOUS = Operand::IN_MEMORY && T::VECTOR == CHUNK;
    static constexpr int STRIDE = T::THREADS / CHUNKS, PASSES = LINES / STRIDE;
    static_assert(PASSES * STRIDE == LINES);

    typename Operand::Line lines[PASSES];
    uint4 held[ASYNCHRONOUS ? 1 : PASSES];  // between `issue` and `complete`

    __device__ static int line(int pass) { return threadIdx.x / CHUNKS + pass * STRIDE; }
    __device__ static int chunk() { return threadIdx.x % CHUNKS; }

    // Computes the lines of the tile. `index` gives the row or column of a line.
    template <class Index>
    __device__ void locate_lines(const Operand& operand, const Index& index) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) lines[pass] = operand.line(index(line(pass)));
    }

    // Starts loading elements k to k + HALF_TILE_DEPTH; from `end` on they are 0, whatever memory holds.
    __device__ void issue(const Operand& operand, int k, int end, Half* stage) {
        const int at = k + chunk() * CHUNK;
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            if constexpr (ASYNCHRONOUS) {
                const ElementAddress address = operand.address(lines[pass], at);
                const bool live = at < end && address.live;
                cp_async_16(stage + chunk_place(line(pass), chunk()), live ? address.from : operand.data, live);
            } else {
                float numbers[CHUNK];
#pragma unroll
                for (int v = 0; v < CHUNK; v += T::VECTOR) {
                    float(&some)[T::VECTOR] = *reinterpret_cast<float(*)[T::VECTOR]>(numbers + v);
                    if constexpr (Operand::IN_MEMORY) {
                        const ElementAddress address = operand.address(lines[pass], at + v);
                        load_if(at + v < end && address.live, some, address.from);
                    } else {
                        operand.load(at + v < end, some, lines[pass], at + v);
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
                *reinterpret_cast<uint4*>(stage + chunk_place(line(pass), chunk())) = held[pass];
            }
        }
    }
};

// A warp's part of the sums of a block tile: fragments of 16 rows by 8 columns.
template <class T>
struct WarpTile {
    static constexpr int DOWN = T::WARP_ROWS / 16, ACROSS = T::WARP_COLUMNS / 8;
    float sums[DOWN][ACROSS][4] = {};

    __device__ static int first_row() { return threadIdx.x / WARP / T::WARPS_ACROSS * T::WARP_ROWS; }
    __device__ static int first_column() { return threadIdx.x / WARP % T::WARPS_ACROSS * T::WARP_COLUMNS; }

    // Adds the products of a stage.
    __device__ void multiply(const Half* a_stage, const Half* b_stage) {
        const int lane = threadIdx.x % WARP;
        const int a_line = first_row() + lane % 16, b_line = first_column() + lane / 16 * 8 + lane % 8;
#pragma unroll
        for (int k = 0; k < CHUNKS; k += 2) {
            unsigned a[DOWN][4], b[ACROSS][2];
#pragma unroll
            for (int i = 0; i < DOWN; ++i) {
                ldmatrix_x4(a[i], a_stage + chunk_place(a_line + 16 * i, k + lane / 16));
            }
#pragma unroll
            for (int i = 0; i < ACROSS; i += 2) {
                unsigned two[4];
                ldmatrix_x4(two, b_stage + chunk_place(b_line + 8 * i, k + lane / 8 % 2));
                b[i][0] = two[0], b[i][1] = two[1], b[i + 1][0] = two[2], b[i + 1][1] = two[3];
            }
            mma(sums, a, b);
        }
    }
};

// Multiplies `steps` stages, while the copies into the next ones are pending. `issue(step, stage)` starts the copies of
// a step, `complete(stage)` stores what went through registers, `multiply(stage)` adds the stage's products.
template <class Issue, class Complete, class Multiply>
__device__ __forceinline__ void walk_stages(
    int steps, const Issue& issue, const Complete& complete, const Multiply& multiply) {
    // Past the last step nothing is loaded, but an empty group is committed, so that the wait counts the same.
    const auto start = [&](int step) {
        if (step < steps) issue(step, step % STAGES);
        cp_async_commit();
    };
    const auto finish = [&](int step) {
        if (step < steps) complete(step % STAGES);
    };
    for (int step = 0; step < STAGES - 1; ++step) start(step), finish(step);
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // the stage has arrived; the one that is filled next was last read before this barrier
        start(step + STAGES - 1);
        multiply(step % STAGES);
        finish(step + STAGES - 1);
    }
}

// Adds terms `first` to `end` of a product to the sums of the block tile at row0, column0.
template <class T, bool POOLED, class A, class B>
__device__ __forceinline__ void accumulate_half(
    WarpTile<T>& tile, const GemmOperands<A, B>& product, int row0, int column0, int first, int end,
    Half (*a_stages)[T::ROWS * HALF_TILE_DEPTH], Half (*b_stages)[T::COLUMNS * HALF_TILE_DEPTH]) {
    const int steps = end > first ? ceil_div(end - first, HALF_TILE_DEPTH) : 0;
    if (steps == 0) return;
    HalfTileLoader<T, A, T::ROWS> a_loader;
    HalfTileLoader<T, B, T::COLUMNS> b_loader;
    a_loader.locate_lines(product.a, [&](int line) { return row0 + row_of_line<POOLED>(line); });
    b_loader.locate_lines(product.b, [&](int line) { return column0 + column_of_line(line); });
    walk_stages(
        steps,
        [&](int step, int stage) {
            a_loader.issue(product.a, first + step * HALF_TILE_DEPTH, end, a_stages[stage]);
            b_loader.issue(product.b, first + step * HALF_TILE_DEPTH, end, b_stages[stage]);
        },
        [&](int stage) { a_loader.complete(a_stages[stage]), b_loader.complete(b_stages[stage]); },
        [&](int stage) { tile.multiply(a_stages[stage], b_stages[stage]); });
    __syncthreads();  // another product fills the stages again
}

// Computes a block tile of the sum of several products, as `gemm` does, with operands of halves. Calls `output(row,
// output.start(column), values[THREAD_ROWS][THREAD_COLUMNS])`: the values of a row are those of adjacent columns, and
// their rows are `row` and every ROW_DISTANCE-th after it; POOLED: `row` and the next ones. An output that is SUMMED
// then adds its columns over the block, in the memory of the stages.
template <class T, bool POOLED, class Output, class... Products>
__device__ __forceinline__ void gemm_half(
    int rows, int columns, int chunk, const Output& output, const Products&... products) {
    SHARED(Half, a_stages, [STAGES][T::ROWS * HALF_TILE_DEPTH]);
    SHARED(Half, b_stages, [STAGES][T::COLUMNS * HALF_TILE_DEPTH]);
    const int across = ceil_div(columns, T::COLUMNS);
    const int row0 = blockIdx.x / across * T::ROWS, column0 = blockIdx.x % across * T::COLUMNS;
    if (row0 >= rows) return;
    WarpTile<T> tile;
    int first = blockIdx.y * chunk, end = first + chunk;
    const auto add = [&](const auto& product) {
        accumulate_half<T, POOLED>(tile, product, row0, column0, max(first, 0), min(end, product.length), a_stages,
                                   b_stages);
        first -= product.length, end -= product.length;
    };
    (add(products), ...);
    const int lane = threadIdx.x % WARP;
    const int column = tile.first_column() + lane % 4 * THREAD_COLUMNS;
    auto thread_columns = output.start(column0 + column);
#pragma unroll
    for (int patch = 0; patch < T::WARP_ROWS / PATCH; ++patch) {
        float values[THREAD_ROWS][THREAD_COLUMNS];
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; ++i) {
#pragma unroll
            for (int j = 0; j < THREAD_COLUMNS; ++j) {
                values[i][j] = tile.sums[2 * patch + i / 2][j / 2][i % 2 * 2 + j % 2];
            }
        }
        const int row = row0 + tile.first_row() + patch * PATCH + lane / 4 * (POOLED ? PLACES : 1);
        output(row, thread_columns, values);
    }
    if constexpr (Output::SUMMED) {
        float* sums = reinterpret_cast<float*>(a_stages);
        output.pass_on(thread_columns, sums, tile.first_row() / T::WARP_ROWS, column);
        output.template finish<T::ROWS>(sums, row0, column0, across);
    }
}

// Output that writes results [order.rows, columns]: after the epilogue, as halves; or, if `parts` is not null, the sums
// of a split as they are, as floats.
template <int VECTOR, class Order = RowOrder>
struct HalfTileStore {
    static constexpr bool SUMMED = false;
    Half* out;
    float* parts;
    int columns;
    Order order;
    Epilogue epilogue;

    // A thread's columns, which all of its rows share.
    struct Columns {
        int first;
        EpilogueColumn column[THREAD_COLUMNS];
    };
    __device__ Columns start(int first) const {
        Columns of{first, {}};
#pragma unroll
        for (int j = 0; j < THREAD_COLUMNS; ++j) {
            if (first + j < columns) of.column[j] = epilogue_column(epilogue, first + j);
        }
        return of;
    }

    // Replaces the values by the results as memory has them.
    __device__ void operator()(int row, const Columns& of, float (*values)[THREAD_COLUMNS]) const {
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; ++i) {
            if (row + i * ROW_DISTANCE >= order.rows) break;
            const size_t line = order(row + i * ROW_DISTANCE) * columns + of.first;
#pragma unroll
            for (int j = 0; j < THREAD_COLUMNS; j += VECTOR) {
                if (of.first + j >= columns) break;
                float results[1][VECTOR];
                const size_t at[1] = {line + j};
                for (int v = 0; v < VECTOR; ++v) results[0][v] = values[i][j + v];
                if (parts != nullptr) {
                    store_vector(parts + at[0], results[0]);
                } else {
                    apply_epilogue<Half>(epilogue, results, at, 1, of.column + j);
                    store_vector(out + at[0], results[0]);
                    for (int v = 0; v < VECTOR; ++v) values[i][j + v] = float_of(half_of(results[0][v]));
                }
            }
        }
    }
};

// `HalfTileStore` that adds two sums of each of its columns, if they are wanted (channel_sums.cuh). A block has COLUMNS
// columns, a warp WARP_ROWS rows.
template <int VECTOR, int COLUMNS, int WARP_ROWS, class Sums>
struct HalfSummedStore {
    static constexpr bool SUMMED = true;
    using Store = HalfTileStore<VECTOR>;
    Store store;
    Sums sums;

    // A thread's columns, and the sums of its rows.
    struct Columns {
        typename Store::Columns own;
        typename Sums::Factors factors;
        LaneSums<THREAD_COLUMNS> sums;
        bool begun;
    };
    __device__ Columns start(int first) const {
        Columns of{store.start(first), {}, {}, false};
        if (sums.are_wanted()) of.factors = sums.factors(first);
        return of;
    }

    __device__ void operator()(int row, Columns& of, float (*values)[THREAD_COLUMNS]) const {
        store(row, of.own, values);
        if (!sums.are_wanted()) return;
        if (!of.begun) sums.start(of.sums, values[0]), of.begun = true;
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; ++i) {
            const int at = row + i * ROW_DISTANCE;
            const size_t offset = store.order(at) * store.columns + of.own.first;
            if (at < store.order.rows) sums.add(of.sums, of.factors, values[i], offset);
        }
    }

    // Stores the sums of a warp, the `warp`-th from the block's top, in shared memory. `column`: the thread's first one
    // in the block.
    __device__ void pass_on(Columns& of, float* shared, int warp, int column) const {
        if (!sums.are_wanted()) return;
        of.sums.add_lanes();
        WarpSums<COLUMNS>{shared}.store(warp, column, of.sums);
    }

    // Adds a block of ROWS rows to the others of its columns; the last one finishes them. `across`: number of blocks
    // beside each other.
    template <int ROWS>
    __device__ void finish(float* shared, int row0, int column0, int across) const {
        if (!sums.are_wanted()) return;
        __syncthreads();  // all warps have passed their sums on
        const int rows = store.order.rows, own = threadIdx.x;
        const int column = own < COLUMNS && column0 + own < store.columns ? column0 + own : -1;
        ChannelMoments moments{};
        if (column >= 0) moments = WarpSums<COLUMNS>{shared}.moments(own, min(rows - row0, ROWS), WARP_ROWS);
        int* last = reinterpret_cast<int*>(shared + ROWS / WARP_ROWS * WarpSums<COLUMNS>::NUMBERS);
        add_blocks(sums.to.sums, sums.to.counters + blockIdx.x % across, column, moments, ceil_div(rows, ROWS), last,
                   [&](int column, const ChannelMoments& all) { sums.finish(column, all, rows); });
    }
};

// `PoolStore` of halves.
template <int VECTOR>
struct HalfPoolStore {
    static constexpr bool SUMMED = false;
    Half* out;
    unsigned char* choice;
    const float* bias;
    int rows, columns;

    __device__ int start(int column) const { return column; }
    __device__ void operator()(int row, int column, const float (*values)[THREAD_COLUMNS]) const {
        if (row >= rows) return;
        const size_t cell = static_cast<size_t>(row / PLACES) * columns + column;
#pragma unroll
        for (int j = 0; j < THREAD_COLUMNS; j += VECTOR) {
            if (column + j >= columns) break;
            float results[VECTOR];
            unsigned char places[VECTOR];
            for (int v = 0; v < VECTOR; ++v) {
                const float window[PLACES] = {values[0][j + v], values[1][j + v], values[2][j + v], values[3][j + v]};
                const Pooled pooled = pool(window, bias[column + j + v]);
                results[v] = pooled.value, places[v] = pooled.choice;
            }
            store_vector(out + cell + j, results);
            store_bytes(choice + cell + j, places);
        }
    }
};
