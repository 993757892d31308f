// Kernels with one mistake each, and `_mended` twins without it. All take a result `y`, numbers `x`, and the length `n`
// of both. tests/defects/planted.rs has the expected results of the mended kernels.

// Reverses each block of 64 numbers.
extern "C" __global__ void __launch_bounds__(64) missing_barrier(float* y, const float* x, int n) {
    SHARED(float, tile, [64]);
    int i = blockIdx.x * 64 + threadIdx.x;
    tile[threadIdx.x] = i < n ? x[i] : 0.0f;
    if (i < n) y[i] = tile[63 - threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(64) missing_barrier_mended(float* y, const float* x, int n) {
    SHARED(float, tile, [64]);
    int i = blockIdx.x * 64 + threadIdx.x;
    tile[threadIdx.x] = i < n ? x[i] : 0.0f;
    __syncthreads();
    if (i < n) y[i] = tile[63 - threadIdx.x];
}

// Adds the next number to each number.
extern "C" __global__ void __launch_bounds__(64) read_past_end(float* y, const float* x, int n) {
    int i = blockIdx.x * 64 + threadIdx.x;
    if (i < n) y[i] = x[i] + x[i + 1];
}

extern "C" __global__ void __launch_bounds__(64) read_past_end_mended(float* y, const float* x, int n) {
    int i = blockIdx.x * 64 + threadIdx.x;
    if (i < n) y[i] = x[i] + (i + 1 < n ? x[i + 1] : 0.0f);
}

// Adds the previous number to each number.
extern "C" __global__ void __launch_bounds__(64) read_before_start(float* y, const float* x, int n) {
    int i = blockIdx.x * 64 + threadIdx.x;
    if (i < n) y[i] = x[i] + x[i - 1];
}

extern "C" __global__ void __launch_bounds__(64) read_before_start_mended(float* y, const float* x, int n) {
    int i = blockIdx.x * 64 + threadIdx.x;
    if (i < n) y[i] = x[i] + (i > 0 ? x[i - 1] : 0.0f);
}

// Copies x to y.
extern "C" __global__ void __launch_bounds__(64) write_past_end(float* y, const float* x, int n) {
    int i = blockIdx.x * 64 + threadIdx.x;
    if (i <= n) y[i] = i < n ? x[i] : 0.0f;
}

extern "C" __global__ void __launch_bounds__(64) write_past_end_mended(float* y, const float* x, int n) {
    int i = blockIdx.x * 64 + threadIdx.x;
    if (i < n) y[i] = x[i];
}

// Counts the numbers that are not negative, as bits of y[0].
extern "C" __global__ void __launch_bounds__(64) race_between_blocks(float* y, const float* x, int n) {
    int i = blockIdx.x * 64 + threadIdx.x;
    if (threadIdx.x != 0) return;
    int count = 0;
    for (int j = i; j < i + 64 && j < n; j++) count += x[j] >= 0.0f;
    reinterpret_cast<int*>(y)[0] += count;
}

extern "C" __global__ void __launch_bounds__(64) race_between_blocks_mended(float* y, const float* x, int n) {
    int i = blockIdx.x * 64 + threadIdx.x;
    if (threadIdx.x != 0) return;
    int count = 0;
    for (int j = i; j < i + 64 && j < n; j++) count += x[j] >= 0.0f;
    atomicAdd(reinterpret_cast<int*>(y), count);
}

// Counts the numbers that are not negative, within a block.
extern "C" __global__ void __launch_bounds__(64) race_in_block(float* y, const float* x, int n) {
    SHARED(int, count, );
    int i = blockIdx.x * 64 + threadIdx.x;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (i < n && x[i] >= 0.0f) count++;
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(reinterpret_cast<int*>(y), count);
}

extern "C" __global__ void __launch_bounds__(64) race_in_block_mended(float* y, const float* x, int n) {
    SHARED(int, count, );
    int i = blockIdx.x * 64 + threadIdx.x;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (i < n && x[i] >= 0.0f) atomicAdd(&count, 1);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(reinterpret_cast<int*>(y), count);
}

// Sums the numbers of each block, at the index of its first number.
extern "C" __global__ void __launch_bounds__(64) unwritten_shared(float* y, const float* x, int n) {
    SHARED(float, tile, [64]);
    int i = blockIdx.x * 64 + threadIdx.x;
    if (i < n) tile[threadIdx.x] = x[i];
    __syncthreads();
    if (threadIdx.x != 0) return;
    float sum = 0.0f;
    for (int j = 0; j < 64; j++) sum += tile[j];
    y[i] = sum;
}

extern "C" __global__ void __launch_bounds__(64) unwritten_shared_mended(float* y, const float* x, int n) {
    SHARED(float, tile, [64]);
    int i = blockIdx.x * 64 + threadIdx.x;
    tile[threadIdx.x] = i < n ? x[i] : 0.0f;
    __syncthreads();
    if (threadIdx.x != 0) return;
    float sum = 0.0f;
    for (int j = 0; j < 64; j++) sum += tile[j];
    y[i] = sum;
}

// Writes x, shifted by one within each block.
extern "C" __global__ void __launch_bounds__(64) shared_overflow(float* y, const float* x, int n) {
    SHARED(float, tile, [64]);
    int i = blockIdx.x * 64 + threadIdx.x;
    tile[threadIdx.x + 1] = i < n ? x[i] : 0.0f;
    __syncthreads();
    if (i < n) y[i] = threadIdx.x == 0 ? 0.0f : tile[threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(64) shared_overflow_mended(float* y, const float* x, int n) {
    SHARED(float, tile, [65]);
    int i = blockIdx.x * 64 + threadIdx.x;
    tile[threadIdx.x + 1] = i < n ? x[i] : 0.0f;
    __syncthreads();
    if (i < n) y[i] = threadIdx.x == 0 ? 0.0f : tile[threadIdx.x];
}

// Computes running sums within each block.
extern "C" __global__ void __launch_bounds__(64) thread_order(float* y, const float* x, int n) {
    SHARED(float, sums, [64]);
    int i = blockIdx.x * 64 + threadIdx.x;
    sums[threadIdx.x] = (i < n ? x[i] : 0.0f) + (threadIdx.x > 0 ? sums[threadIdx.x - 1] : 0.0f);
    if (i < n) y[i] = sums[threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(64) thread_order_mended(float* y, const float* x, int n) {
    SHARED(float, sums, [64]);
    int i = blockIdx.x * 64 + threadIdx.x;
    for (int t = 0; t < 64; t++) {
        if (t == threadIdx.x) sums[t] = (i < n ? x[i] : 0.0f) + (t > 0 ? sums[t - 1] : 0.0f);
        __syncthreads();
    }
    if (i < n) y[i] = sums[threadIdx.x];
}

// Computes running sums of all numbers, at the index of each block's last number, from which the next block starts.
extern "C" __global__ void __launch_bounds__(64) block_order(float* y, const float* x, int n) {
    if (threadIdx.x != 0) return;
    int start = blockIdx.x * 64, end = min(start + 64, n);
    float sum = start > 0 ? y[start - 1] : 0.0f;
    for (int i = start; i < end; i++) sum += x[i];
    y[end - 1] = sum;
}

extern "C" __global__ void __launch_bounds__(64) block_order_mended(float* y, const float* x, int n) {
    if (threadIdx.x != 0) return;
    int end = min(int(blockIdx.x) * 64 + 64, n);
    float sum = 0.0f;
    for (int i = 0; i < end; i++) sum += x[i];
    y[end - 1] = sum;
}

// Copies through shared memory.
extern "C" __global__ void __launch_bounds__(64) copy_not_awaited(float* y, const float* x, int n) {
    SHARED(float, tile, [64]);
    int i = blockIdx.x * 64 + threadIdx.x;
    host_cp_async(&tile[threadIdx.x], &x[min(i, n - 1)], 4, i < n ? 4 : 0);
    host_cp_async_commit();
    host_cp_async_wait(1);
    __syncthreads();
    if (i < n) y[i] = tile[threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(64) copy_not_awaited_mended(float* y, const float* x, int n) {
    SHARED(float, tile, [64]);
    int i = blockIdx.x * 64 + threadIdx.x;
    host_cp_async(&tile[threadIdx.x], &x[min(i, n - 1)], 4, i < n ? 4 : 0);
    host_cp_async_commit();
    host_cp_async_wait(0);
    __syncthreads();
    if (i < n) y[i] = tile[threadIdx.x];
}

// Copies numbers with even indices, and each to the odd index after it.
extern "C" __global__ void __launch_bounds__(64) divergent_barrier(float* y, const float* x, int n) {
    SHARED(float, tile, [64]);
    int i = blockIdx.x * 64 + threadIdx.x;
    if (threadIdx.x % 2 == 0) {
        tile[threadIdx.x] = i < n ? x[i] : 0.0f;
        __syncthreads();
    } else {
        __syncthreads();
    }
    if (i < n) y[i] = tile[threadIdx.x & ~1u];
}

extern "C" __global__ void __launch_bounds__(64) divergent_barrier_mended(float* y, const float* x, int n) {
    SHARED(float, tile, [64]);
    int i = blockIdx.x * 64 + threadIdx.x;
    if (threadIdx.x % 2 == 0) tile[threadIdx.x] = i < n ? x[i] : 0.0f;
    __syncthreads();
    if (i < n) y[i] = tile[threadIdx.x & ~1u];
}

// Sums 32 numbers, at the index of the first.
extern "C" __global__ void __launch_bounds__(64) divergent_shuffle(float* y, const float* x, int n) {
    int i = blockIdx.x * 64 + threadIdx.x;
    if (i >= n) {
        __syncthreads();
        return;
    }
    float sum = x[i];
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) y[i] = sum;
}

extern "C" __global__ void __launch_bounds__(64) divergent_shuffle_mended(float* y, const float* x, int n) {
    int i = blockIdx.x * 64 + threadIdx.x;
    float sum = i < n ? x[i] : 0.0f;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0 && i < n) y[i] = sum;
}

// Copies vectors of four numbers, up to the last complete one.
extern "C" __global__ void __launch_bounds__(64) misaligned(float* y, const float* x, int n) {
    int i = 4 * (blockIdx.x * 64 + threadIdx.x) + 1;
    if (i + 4 <= n) *reinterpret_cast<float4*>(y + i) = *reinterpret_cast<const float4*>(x + i);
}

extern "C" __global__ void __launch_bounds__(64) misaligned_mended(float* y, const float* x, int n) {
    int i = 4 * (blockIdx.x * 64 + threadIdx.x);
    if (i + 4 <= n) *reinterpret_cast<float4*>(y + i) = *reinterpret_cast<const float4*>(x + i);
}

// Sums the numbers of each block at y[block]. The last block adds the sums of all at y[3]; the blocks are counted, as
// bits, at y[4].
extern "C" __global__ void __launch_bounds__(64) missing_fence(float* y, const float* x, int n) {
    if (threadIdx.x != 0) return;
    float sum = 0.0f;
    for (int i = blockIdx.x * 64; i < int(blockIdx.x) * 64 + 64 && i < n; i++) sum += x[i];
    y[blockIdx.x] = sum;
    if (atomicAdd(reinterpret_cast<unsigned*>(y + 4), 1u) != gridDim.x - 1) return;
    float all = 0.0f;
    for (unsigned b = 0; b < gridDim.x; b++) all += y[b];
    y[3] = all;
}

extern "C" __global__ void __launch_bounds__(64) missing_fence_mended(float* y, const float* x, int n) {
    if (threadIdx.x != 0) return;
    float sum = 0.0f;
    for (int i = blockIdx.x * 64; i < int(blockIdx.x) * 64 + 64 && i < n; i++) sum += x[i];
    y[blockIdx.x] = sum;
    __threadfence();
    if (atomicAdd(reinterpret_cast<unsigned*>(y + 4), 1u) != gridDim.x - 1) return;
    __threadfence();
    float all = 0.0f;
    for (unsigned b = 0; b < gridDim.x; b++) all += y[b];
    y[3] = all;
}
