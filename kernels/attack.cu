// PGD and the search for the boundary. Each example has its own eps.
//
// Read this file first: `pgd_step_linf` is the plainest kernel of the project, and its heart. Its formula, `linf_move`,
// is in pgd.cuh, because kernels that include other ops have it, too. One launch does the work
// of six operations of a tensor library: the step along the gradient, the projection into the ball and the clamp to the
// box, for a batch whose examples each have a radius and a step size of their own.
//
// Three rules of all kernels appear here.
// - `rows` points to the number of active rows, which is on the GPU. A block beyond them leaves at once.
// - Four numbers are read and written at once if the addresses allow it (kernels whose name ends in _x4 or
//   _registersN).
//   The formula is written once, for one number, and `each` applies it to four.
// - The compiler does not contract a product and a sum into a fused multiply-add (-fmad=false): the results have the
//   bits of the formula, as on the CPU. The exact ball (pgd.cuh) depends on this.
#include "pgd.cuh"
#include "random.cuh"

// --- linf: one pass over memory ---

// Position of a thread in a grid whose blocks each take THREADS elements of one row, so that eps and the step size are
// the same for the whole block. Rows have `width` elements: numbers, or vectors of four.
struct RowPosition {
    int row;
    int at;

    __device__ __forceinline__ explicit RowPosition(int width) {
        const unsigned parts = ceil_div(width, THREADS);
        row = static_cast<int>(blockIdx.x / parts);
        at = static_cast<int>(blockIdx.x % parts) * THREADS + static_cast<int>(threadIdx.x);
    }

    __device__ __forceinline__ bool inside(const unsigned* rows, int capacity, int width) const {
        return row < active_rows(rows, capacity) && at < width;
    }

    __device__ __forceinline__ long long offset(int width) const { return static_cast<long long>(row) * width + at; }
};

// adv = the point at adv + step sign(dx), back in ball and box.
//
// 16 bytes a number: adv, x and dx are read, adv is written; some 26 FLOPs. At batch 50 of 28 x 28: 0.63 MB, 0.2 us at
// 3.0 TB/s; for 200 MB 67 us. No number depends on another one, so there is no shared memory and no barrier. Three
// loads of 16 bytes a thread are in flight at once, which keeps the memory busy.
template <typename V>
__device__ __forceinline__ void pgd_step_linf_of(V* __restrict__ adv, const V* __restrict__ x, const V* __restrict__ dx,
                                                 const float* __restrict__ eps, const float* __restrict__ step,
                                                 const unsigned* rows, int capacity, int width) {
    const RowPosition position(width);
    if (!position.inside(rows, capacity, width)) return;
    const long long i = position.offset(width);
    const float radius = eps[position.row], stride = step[position.row];
    const auto move = [=](float a, float x, float g) { return linf_move(a, x, g, radius, stride); };
    adv[i] = each(move, adv[i], x[i], dx[i]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_linf(float* adv, const float* x, const float* dx, const float* eps, const float* step,
                  const unsigned* rows, int capacity, int width) {
    pgd_step_linf_of(adv, x, dx, eps, step, rows, capacity, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_linf_x4(float4* adv, const float4* x, const float4* dx, const float* eps, const float* step,
                     const unsigned* rows, int capacity, int width) {
    pgd_step_linf_of(adv, x, dx, eps, step, rows, capacity, width);
}

// First point of PGD: x + eps noise, noise in [-1, 1), in ball and box. 12 bytes a number, some 25 FLOPs.
template <typename V>
__device__ __forceinline__ void pgd_start_linf_of(V* __restrict__ adv, const V* __restrict__ x,
                                                  const float* __restrict__ eps, const V* __restrict__ noise,
                                                  const unsigned* rows, int capacity, int width) {
    const RowPosition position(width);
    if (!position.inside(rows, capacity, width)) return;
    const long long i = position.offset(width);
    const float radius = eps[position.row];
    const auto start = [=](float x, float u) { return into_ball_and_box(x + radius * u, x, radius); };
    adv[i] = each(start, x[i], noise[i]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_start_linf(float* adv, const float* x, const float* eps, const float* noise, const unsigned* rows, int capacity,
                   int width) {
    pgd_start_linf_of(adv, x, eps, noise, rows, capacity, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_start_linf_x4(float4* adv, const float4* x, const float* eps, const float4* noise, const unsigned* rows,
                      int capacity, int width) {
    pgd_start_linf_of(adv, x, eps, noise, rows, capacity, width);
}

// --- l2: a block an example, because a norm is a sum over the whole example ---

// 16 bytes a number, as in linf, and some 20 FLOPs, five of them in double precision: 0.2 us at batch 50 of 28 x 28.
// Two sums over a block come on top.
template <int N>
__device__ __forceinline__ void pgd_step_l2_registers(float4* adv, const float4* x, const float4* dx, const float* eps,
                                                      const float* step, float floor, int box_first,
                                                      const unsigned* rows, int capacity, int width) {
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const long long start = static_cast<long long>(row) * width;
    RegisterRow<N> example(adv + start, x + start, dx + start, width);
    pgd_step_l2_of(example, eps[row], step[row], floor, box_first != 0);
    example.store(adv + start, width);
}

// Rows of at most 256 vectors of four: 28 x 28 has 196.
extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_l2_registers1(float4* adv, const float4* x, const float4* dx, const float* eps, const float* step,
                           float floor, int box_first, const unsigned* rows, int capacity, int width) {
    pgd_step_l2_registers<1>(adv, x, dx, eps, step, floor, box_first, rows, capacity, width);
}

// Rows of at most 768 vectors of four: 32 x 32 x 3 has 768.
extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_l2_registers3(float4* adv, const float4* x, const float4* dx, const float* eps, const float* step,
                           float floor, int box_first, const unsigned* rows, int capacity, int width) {
    pgd_step_l2_registers<3>(adv, x, dx, eps, step, floor, box_first, rows, capacity, width);
}

// Rows of any length. adv, x and dx are read twice, adv is written twice: 28 bytes a number, most of them from a cache.
extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_step_l2(float* adv, const float* x, const float* dx, const float* eps, const float* step, float floor,
                int box_first, const unsigned* rows, int capacity, int width) {
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const long long start = static_cast<long long>(row) * width;
    MemoryRow example{adv + start, x + start, dx + start, width};
    pgd_step_l2_of(example, eps[row], step[row], floor, box_first != 0);
}

// First point of PGD: an image of noise in [0, 1), projected into the ball around x, then into the box. It runs once an
// attack, so it reads its operands twice instead of holding them: 20 bytes a number, 8 of them from a cache.
template <typename V>
__device__ __forceinline__ void pgd_start_l2_of(V* __restrict__ adv, const V* __restrict__ x,
                                                const float* __restrict__ eps, const V* __restrict__ noise,
                                                const unsigned* rows, int capacity, int width) {
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const long long start = static_cast<long long>(row) * width;
    start_in_l2_ball(adv, x, eps[row], noise, start, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_start_l2(float* adv, const float* x, const float* eps, const float* noise, const unsigned* rows, int capacity,
                 int width) {
    pgd_start_l2_of(adv, x, eps, noise, rows, capacity, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pgd_start_l2_x4(float4* adv, const float4* x, const float* eps, const float4* noise, const unsigned* rows,
                    int capacity, int width) {
    pgd_start_l2_of(adv, x, eps, noise, rows, capacity, width);
}

// --- the search for the boundary ---

// Along the direction of the adversarial example; the length is PGD's radius. 12 bytes a number, 6 FLOPs: 0.47 MB at
// batch 50 of 28 x 28, 0.16 us.
template <typename V>
__device__ __forceinline__ void along_direction_eps_of(V* __restrict__ out, const V* __restrict__ x,
                                                       const V* __restrict__ adv, const float* __restrict__ ball,
                                                       const float* __restrict__ t, int box, const unsigned* rows,
                                                       int capacity, int width) {
    const RowPosition position(width);
    if (!position.inside(rows, capacity, width)) return;
    const long long i = position.offset(width);
    out[i] = each(AlongDirection(t[position.row], ball[position.row], box != 0), x[i], adv[i]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    along_direction_eps(float* out, const float* x, const float* adv, const float* ball, const float* t, int box,
                        const unsigned* rows, int capacity, int width) {
    along_direction_eps_of(out, x, adv, ball, t, box, rows, capacity, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    along_direction_eps_x4(float4* out, const float4* x, const float4* adv, const float* ball, const float* t, int box,
                           const unsigned* rows, int capacity, int width) {
    along_direction_eps_of(out, x, adv, ball, t, box, rows, capacity, width);
}

// Along the direction of the adversarial example; the length is the norm of adv - x, linf or l2. A block an example
// reads it twice, the second time from a cache. 12 bytes a number, 9 FLOPs.
extern "C" __global__ void __launch_bounds__(THREADS)
    along_direction_unit(float* __restrict__ out, const float* __restrict__ x, const float* __restrict__ adv,
                         const float* __restrict__ t, int l2, int box, const unsigned* rows, int capacity, int width) {
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const long long start = static_cast<long long>(row) * width;
    const AlongDirection along(t[row], perturbation_norm(adv + start, x + start, l2 != 0, width), box != 0);
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
        out[start + at] = along(x[start + at], adv[start + at]);
    }
}

// Halves the bracket [low, high] of each row by the sign of the loss at t, and moves t to its middle. 28 bytes a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    bisect(float* __restrict__ t, float* __restrict__ low, float* __restrict__ high, const float* __restrict__ loss,
           float max_eps, const unsigned* rows, int capacity) {
    const long long i = global_thread();
    if (i >= active_rows(rows, capacity)) return;
    halve_bracket(t[i], low[i], high[i], loss[i], max_eps);
}

// --- noise ---

// A thread writes four numbers. 4 bytes a number, some 25 integer operations: 0.16 MB at batch 50 of 28 x 28, 0.05 us.
extern "C" __global__ void __launch_bounds__(THREADS)
    uniform(float* __restrict__ out, const unsigned* __restrict__ step, const unsigned* __restrict__ index,
            unsigned seed_low, unsigned seed_high, unsigned purpose, int is_signed, const unsigned* rows, int capacity,
            int row) {
    const long long i = global_thread();
    const int blocks = ceil_div(row, 4);
    if (i >= static_cast<long long>(active_rows(rows, capacity)) * blocks) return;
    const long long example = i / blocks;
    const int block = static_cast<int>(i % blocks);
    const float4 numbers = noise_of(block, index[example], *step, purpose, seed_low, seed_high, is_signed != 0);
    write_noise(out + example * row, block, row, numbers);
}

// A row has `width` vectors of four.
extern "C" __global__ void __launch_bounds__(THREADS)
    uniform_x4(float4* __restrict__ out, const unsigned* __restrict__ step, const unsigned* __restrict__ index,
               unsigned seed_low, unsigned seed_high, unsigned purpose, int is_signed, const unsigned* rows,
               int capacity, int width) {
    const long long i = global_thread();
    if (i >= static_cast<long long>(active_rows(rows, capacity)) * width) return;
    const unsigned block = static_cast<unsigned>(i % width);
    out[i] = noise_of(block, index[i / width], *step, purpose, seed_low, seed_high, is_signed != 0);
}
