// Barriers and warp operations, for tests/defects/threads.rs.

struct Shift {
    int by;
    float plus;
};

// Results of all warp operations, by lane; the value of a lane is its index within the block, times three.
extern "C" __global__ void __launch_bounds__(1024) warp_operations(int* y, int width, int amount) {
    int n = blockDim.x, t = threadIdx.x, value = 3 * t;
    y[0 * n + t] = __shfl_sync(~0u, value, amount, width);
    y[1 * n + t] = __shfl_up_sync(~0u, value, amount, width);
    y[2 * n + t] = __shfl_down_sync(~0u, value, amount, width);
    y[3 * n + t] = __shfl_xor_sync(~0u, value, amount, width);
    y[4 * n + t] = int(__shfl_sync(~0u, (long long)value << 32, amount, width) >> 32);
    y[5 * n + t] = int(__shfl_xor_sync(~0u, float(value), amount, width));
    y[6 * n + t] = int(__ballot_sync(~0u, t % 3 == 0));
    y[7 * n + t] = __any_sync(~0u, t == amount);
    y[8 * n + t] = __all_sync(~0u, t >= amount);
    // Each half of a warp separately.
    unsigned half = t % 32 < 16 ? 0xFFFFu : 0xFFFF0000u;
    int sum = value;
    for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(half, sum, step);
    __syncwarp();
    y[9 * n + t] = sum;
}

// Results of all counting barriers, and the content of shared memory after each, seen by the whole block.
extern "C" __global__ void __launch_bounds__(1024) block_operations(int* y, int amount) {
    DYN_SHARED(int, values);
    int n = blockDim.x * blockDim.y * blockDim.z;
    int t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    y[0 * n + t] = __syncthreads_count(t < amount);
    y[1 * n + t] = __syncthreads_or(t == amount);
    y[2 * n + t] = __syncthreads_and(t != amount);
    values[t] = t;
    for (int step = 0; step < 5; step++) {
        __syncthreads();
        int next = values[(t + 1) % n];
        __syncthreads();
        values[t] = next;
    }
    y[3 * n + t] = values[t];
}

// Threads without work leave before the barrier.
extern "C" __global__ void early_leavers(int* y, int n) {
    SHARED(int, values, [64]);
    if (threadIdx.x >= n) return;
    values[threadIdx.x] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = values[n - 1 - threadIdx.x];
}

// A lane that has left does not contribute.
extern "C" __global__ void shuffle_from_nobody(float* y) {
    if (threadIdx.x == 7) return;
    y[threadIdx.x] = __shfl_sync(~0u, 1.0f, 7);
}

// Arguments of all kinds, and the name of a function of C.
extern "C" __global__ void __launch_bounds__(2 * 32, 2)
    select(float* y, const int* x, Shift shift, unsigned n, double scale, char add) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = float((x[i] << shift.by) * scale) + shift.plus + float(add);
}

// A declaration has its own memory for each instantiation of a template.
template <int k>
__device__ int* place() {
    SHARED(int, slot, [2]);
    return slot;
}
extern "C" __global__ void shared_places(int* y) {
    if (threadIdx.x == 0) {
        place<0>()[0] = 10;
        place<1>()[0] = 20;
    }
    __syncthreads();
    y[threadIdx.x] = place<0>()[0] + place<1>()[0] + int(place<0>() == place<1>());
}

// The last block adds the partial sums of all blocks.
extern "C" __global__ void __launch_bounds__(64) last_block(int* y, unsigned* arrived) {
    if (threadIdx.x != 0) return;
    y[blockIdx.x] = blockIdx.x;
    __threadfence();
    if (atomicAdd(arrived, 1u) != gridDim.x - 1) return;
    __threadfence();
    int sum = 0;
    for (unsigned b = 0; b < gridDim.x; b++) sum += y[b];
    y[gridDim.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256) add_one(float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += 1.0f;
}

extern "C" __global__ void traps(int* y) {
    assert(y == nullptr);
}

extern "C" __global__ void divides_by_zero(int* y, int by) {
    y[threadIdx.x] = 7 / by;
}

// A block tile of 64 x 64 of a product of square matrices: 256 threads with thread tiles of 4 x 4.
extern "C" __global__ void __launch_bounds__(256) sgemm(float* c, const float* a, const float* b, int n) {
    SHARED(float, at, [16][64]);
    SHARED(float, bt, [16][64]);
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16, row = blockIdx.y * 64, column = blockIdx.x * 64;
    float sum[4][4] = {};
    for (int k = 0; k < n; k += 16) {
        for (int i = threadIdx.x; i < 16 * 64; i += 256) {
            at[i % 16][i / 16] = a[(row + i / 16) * n + k + i % 16];
            bt[i / 64][i % 64] = b[(k + i / 64) * n + column + i % 64];
        }
        __syncthreads();
        for (int p = 0; p < 16; p++) {
            float4 u = *reinterpret_cast<const float4*>(&at[p][4 * ty]);
            float4 v = *reinterpret_cast<const float4*>(&bt[p][4 * tx]);
            float us[4] = {u.x, u.y, u.z, u.w}, vs[4] = {v.x, v.y, v.z, v.w};
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) sum[i][j] = fmaf(us[i], vs[j], sum[i][j]);
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) c[(row + 4 * ty + i) * n + column + 4 * tx + j] = sum[i][j];
}

// Barriers only.
extern "C" __global__ void __launch_bounds__(256) barriers(int count) {
    for (int i = 0; i < count; i++) __syncthreads();
}
