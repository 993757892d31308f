// Formulas on rows: the arithmetic of attacks as data. src/tape/formula.rs defines each instruction.
//
// A thread evaluates one element. Its stack is a column of shared memory; the uppermost number is in a register. An
// instruction takes some ten machine instructions: an attack's update of 128 images of 32 x 32 x 3 by twenty
// instructions takes 80 M of them, 6 us on an H100, beside 5 MB an operand, 1.6 us. The network's pass takes
// milliseconds.
#include "prelude.cuh"

// Number at `place` of a table of `length`, or of this row's table; the first number if `place` is NaN.
__device__ __forceinline__ float at_place(const FormulaInputs& inputs, unsigned input, int length, float place,
                                          long long row) {
    const float* table = inputs.of[input % TABLE_BY_ROW] + (input >= TABLE_BY_ROW ? row * length : 0);
    if (!(place > 0.0f)) return table[0];
    return table[place < static_cast<float>(length - 1) ? static_cast<int>(place) : length - 1];
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(unsigned value) { return static_cast<float>(value); }

// Value of the formula for element `element` of row `row`; rows have `width` elements. `old` is the result's buffer.
template <typename T>
__device__ __forceinline__ float evaluate(const FormulaCode& code, const FormulaInputs& inputs,
                                          float (&stack)[FORMULA_DEPTH][THREADS], long long row, int element,
                                          int width, const T* old) {
    float top = 0.0f;
    int held = 0;  // numbers below the uppermost
    for (unsigned at = 0; at < code.count; ++at) {
        const unsigned opcode = code.opcode[at];
        if (opcode <= Opcode::NUMBER) {  // pushes a number
            if (at > 0) stack[held++][threadIdx.x] = top;
            const float* input = inputs.of[code.input[at]];
            const unsigned* whole = reinterpret_cast<const unsigned*>(input);
            switch (opcode) {
                case Opcode::READ_ELEMENT: top = input[row * width + element]; break;
                case Opcode::READ_ROW: top = input[row]; break;
                case Opcode::READ_ONE: top = input[0]; break;
                case Opcode::READ_ELEMENT_U32: top = static_cast<float>(whole[row * width + element]); break;
                case Opcode::READ_ROW_U32: top = static_cast<float>(whole[row]); break;
                case Opcode::READ_ONE_U32: top = static_cast<float>(whole[0]); break;
                case Opcode::OLD: top = to_float(old[row * width + element]); break;
                case Opcode::ELEMENT: top = static_cast<float>(element); break;
                default: top = code.number[at]; break;
            }
            continue;
        }
        switch (opcode) {
            case Opcode::AT: top = at_place(inputs, code.input[at], static_cast<int>(code.number[at]), top, row); break;
            case Opcode::ADD: top = stack[--held][threadIdx.x] + top; break;
            case Opcode::SUB: top = stack[--held][threadIdx.x] - top; break;
            case Opcode::MUL: top = stack[--held][threadIdx.x] * top; break;
            case Opcode::DIV: top = stack[--held][threadIdx.x] / top; break;
            case Opcode::MIN: { const float a = stack[--held][threadIdx.x]; top = top < a ? top : a; break; }
            case Opcode::MAX: { const float a = stack[--held][threadIdx.x]; top = a < top ? top : a; break; }
            case Opcode::LESS: top = stack[--held][threadIdx.x] < top ? 1.0f : 0.0f; break;
            case Opcode::NEG: top = -top; break;
            case Opcode::ABS: top = fabsf(top); break;
            case Opcode::SIGN: top = (top > 0.0f ? 1.0f : 0.0f) - (top < 0.0f ? 1.0f : 0.0f); break;
            case Opcode::SQRT: top = sqrtf(top); break;
            case Opcode::EXP: top = expf(top); break;
            case Opcode::LN: top = logf(top); break;
            case Opcode::TANH: top = tanhf(top); break;
            case Opcode::COS: top = cosf(top); break;
            case Opcode::FLOOR: top = floorf(top); break;
            case Opcode::ROUND: top = rintf(top); break;
            default: {  // SELECT
                const float yes = stack[--held][threadIdx.x];
                const float choice = stack[--held][threadIdx.x];
                top = choice != 0.0f ? yes : top;
                break;
            }
        }
    }
    return top;
}

// Inputs and code are `const __grid_constant__` parameters, so a reference to them is an address in constant memory.
// Without the qualifier each thread copies the inputs' pointers to its stack frame in local memory, a frame of 96
// bytes, because their index is known only at run time. 32 bytes remain for `cosf`, which uses them for arguments
// beyond 105615 alone: it multiplies such an argument by the words of 2 / pi and stores the products there.

// A thread an element. The formula may read the old content of `out`.
extern "C" __global__ void __launch_bounds__(THREADS)
    map(float* out, const __grid_constant__ FormulaInputs inputs, const __grid_constant__ FormulaCode code,
        const unsigned* rows, int capacity, int width) {
    SHARED(float, stack, [FORMULA_DEPTH][THREADS]);
    const long long i = global_thread();
    if (i >= static_cast<long long>(active_rows(rows, capacity)) * width) return;
    const long long row = i / width;
    out[i] = evaluate(code, inputs, stack, row, static_cast<int>(i % width), width, out);
}

// Integer results: the value is truncated, and negative values become 0.
extern "C" __global__ void __launch_bounds__(THREADS)
    map_u32(unsigned* out, const __grid_constant__ FormulaInputs inputs, const __grid_constant__ FormulaCode code,
            const unsigned* rows, int capacity, int width) {
    SHARED(float, stack, [FORMULA_DEPTH][THREADS]);
    const long long i = global_thread();
    if (i >= static_cast<long long>(active_rows(rows, capacity)) * width) return;
    const long long row = i / width;
    const float value = evaluate(code, inputs, stack, row, static_cast<int>(i % width), width, out);
    out[i] = value > 0.0f ? static_cast<unsigned>(value) : 0u;
}

// A block a row. Each thread adds every THREADS-th element, then the threads' sums are added in a fixed order.
extern "C" __global__ void __launch_bounds__(THREADS)
    reduce_sum(float* __restrict__ out, const __grid_constant__ FormulaInputs inputs,
               const __grid_constant__ FormulaCode code, const unsigned* rows, int capacity, int width) {
    SHARED(float, stack, [FORMULA_DEPTH][THREADS]);
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    double sum = 0.0;
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
        sum += evaluate(code, inputs, stack, row, at, width, static_cast<const float*>(nullptr));
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[row] = static_cast<float>(sum);
}

// Maximum if `sign` is 1, minimum if it is -1 (the maximum of the negated values). A zero of either sign becomes 0 by the
// addition of 0, because the threads would find one or the other first.
extern "C" __global__ void __launch_bounds__(THREADS)
    reduce_extreme(float* __restrict__ out, const __grid_constant__ FormulaInputs inputs,
                   const __grid_constant__ FormulaCode code, float sign, const unsigned* rows, int capacity,
                   int width) {
    SHARED(float, stack, [FORMULA_DEPTH][THREADS]);
    SHARED(float, warps, [THREADS / WARP]);
    const int row = static_cast<int>(blockIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    float largest = -INFINITY;
    for (int at = static_cast<int>(threadIdx.x); at < width; at += THREADS) {
        const float value = sign * evaluate(code, inputs, stack, row, at, width, static_cast<const float*>(nullptr));
        largest = larger(value, largest);
    }
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        largest = larger(largest, __shfl_xor_sync(FULL_MASK, largest, lanes));
    }
    if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = largest;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < THREADS / WARP; ++w) largest = larger(warps[w], largest);
    out[row] = sign * largest + 0.0f;
}
