// Losses of examples, weights of examples, and the sums that training reports.
//
// A warp takes a row of logits `[n, classes]`: 4 bytes a logit forward, 8 backward, some 20 FLOPs each. At batch 50 and
// 10 classes that is 4 KB: less than a launch.
#include "loss.cuh"

// Row of this warp. A warp beyond the active rows leaves at once.
__device__ __forceinline__ long long warp_row() {
    return static_cast<long long>(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP;
}

// A targeted loss that is minus another loss uses this kernel, with the targets as labels and -1 as the factor.
extern "C" __global__ void __launch_bounds__(THREADS)
    loss(float* __restrict__ out, const float* __restrict__ logits, const unsigned* __restrict__ labels, unsigned kind,
         float confidence, float factor, const unsigned* rows, int capacity, int classes) {
    const long long row = warp_row();
    if (row >= active_rows(rows, capacity)) return;
    const float* z = logits + row * classes;
    const int y = static_cast<int>(labels[row]);
    const float value = loss_of(z, y, kind, confidence, classes);
    if (threadIdx.x % WARP == 0) out[row] = factor * value;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    loss_backward(float* __restrict__ dlogits, const float* __restrict__ logits, const unsigned* __restrict__ labels,
                  const float* __restrict__ dvalue, unsigned kind, float confidence, float factor, const unsigned* rows,
                  int capacity, int classes) {
    const long long row = warp_row();
    if (row >= active_rows(rows, capacity)) return;
    const long long at = row * classes;
    const int y = static_cast<int>(labels[row]);
    loss_gradient(dlogits + at, logits + at, y, factor * dvalue[row], kind, confidence, classes);
}

// z_t - z_y, or the targeted DLR loss.
extern "C" __global__ void __launch_bounds__(THREADS)
    targeted_loss(float* __restrict__ out, const float* __restrict__ logits, const unsigned* __restrict__ labels,
                  const unsigned* __restrict__ targets, int divided, const unsigned* rows, int capacity, int classes) {
    const long long row = warp_row();
    if (row >= active_rows(rows, capacity)) return;
    const float* z = logits + row * classes;
    const int y = static_cast<int>(labels[row]), t = static_cast<int>(targets[row]);
    const float value = divided != 0 ? Ratio(z, t, y, 4, classes).value : z[t] - z[y];
    if (threadIdx.x % WARP == 0) out[row] = value;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    targeted_loss_backward(float* __restrict__ dlogits, const float* __restrict__ logits,
                           const unsigned* __restrict__ labels, const unsigned* __restrict__ targets,
                           const float* __restrict__ dvalue, int divided, const unsigned* rows, int capacity,
                           int classes) {
    const long long row = warp_row();
    if (row >= active_rows(rows, capacity)) return;
    const int y = static_cast<int>(labels[row]), t = static_cast<int>(targets[row]);
    const float slope = dvalue[row];
    float* dz = dlogits + row * classes;
    if (divided != 0) {
        const Ratio ratio(logits + row * classes, t, y, 4, classes);
        for (int j = threadIdx.x % WARP; j < classes; j += WARP) dz[j] = slope * ratio.derivative(j);
    } else {
        for (int j = threadIdx.x % WARP; j < classes; j += WARP) {
            dz[j] = slope * (static_cast<float>(j == t) - static_cast<float>(j == y));
        }
    }
}

// The class of rank `rank + *run` by logit among the classes other than the label; rank 0 is the largest logit, and a
// null `run` counts as 0. Each lane counts the classes that come before its own: `classes` comparisons a logit.
extern "C" __global__ void __launch_bounds__(THREADS)
    rank_class(unsigned* __restrict__ out, const float* __restrict__ logits, const unsigned* __restrict__ labels,
               const unsigned* __restrict__ run, unsigned rank, const unsigned* rows, int capacity, int classes) {
    const long long row = warp_row();
    if (row >= active_rows(rows, capacity)) return;
    const float* z = logits + row * classes;
    const int y = static_cast<int>(labels[row]);
    const unsigned wanted = min(rank + (run == nullptr ? 0u : *run), static_cast<unsigned>(classes) - 2u);
    for (int j = threadIdx.x % WARP; j < classes; j += WARP) {
        const unsigned long long own = place(z[j], j);
        unsigned before = 0;
        for (int i = 0; i < classes; ++i) before += i != y && place(z[i], i) > own ? 1u : 0u;
        if (j != y && before == wanted) out[row] = static_cast<unsigned>(j);
    }
}

// --- the Kullback-Leibler divergence of two rows of logits ---
//
// A warp takes a row: 8 bytes a logit forward, 12 backward, some 50 FLOPs each. At batch 128 and 10 classes: 16 KB.

// Softmax of a row: its largest logit, and the sum of e^(z_j - largest); equal in every lane.
struct Softmax {
    float largest;
    float sum;

    __device__ __forceinline__ Softmax(const float* __restrict__ z, int classes) {
        const int lane = threadIdx.x % WARP;
        largest = z[0];
        for (int j = lane; j < classes; j += WARP) largest = larger(z[j], largest);
        for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
            largest = larger(largest, __shfl_xor_sync(FULL_MASK, largest, lanes));
        }
        sum = 0.0f;
        for (int j = lane; j < classes; j += WARP) sum += expf(z[j] - largest);
        sum = warp_sum(sum);
    }

    __device__ __forceinline__ float probability(float z) const { return expf(z - largest) / sum; }
};

// Comparison of two rows of logits. Every lane of the warp constructs it.
struct Divergence {
    Softmax p;
    Softmax q;
    float sums;  // log(q.sum) - log(p.sum)

    __device__ __forceinline__ Divergence(const float* __restrict__ p_row, const float* __restrict__ q_row, int classes)
        : p(p_row, classes), q(q_row, classes) {
        sums = logf(q.sum) - logf(p.sum);
    }

    // log P_j - log Q_j, from logits: no logarithm of a probability of 0, and exactly 0 if both rows are equal.
    __device__ __forceinline__ float log_ratio(float p_logit, float q_logit) const {
        return (p_logit - p.largest) - (q_logit - q.largest) + sums;
    }

    // Every lane of the warp calls it.
    __device__ __forceinline__ float kl(const float* __restrict__ p_row, const float* __restrict__ q_row,
                                        int classes) const {
        float sum = 0.0f;
        for (int j = threadIdx.x % WARP; j < classes; j += WARP) {
            sum += p.probability(p_row[j]) * log_ratio(p_row[j], q_row[j]);
        }
        return warp_sum(sum);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    kl(float* __restrict__ out, const float* __restrict__ p, const float* __restrict__ q, const unsigned* rows,
       int capacity, int classes) {
    const long long row = warp_row();
    if (row >= active_rows(rows, capacity)) return;
    const float* p_row = p + row * classes;
    const float* q_row = q + row * classes;
    const float value = Divergence(p_row, q_row, classes).kl(p_row, q_row, classes);
    if (threadIdx.x % WARP == 0) out[row] = value;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    kl_backward_p(float* __restrict__ dp, const float* __restrict__ p, const float* __restrict__ q,
                  const float* __restrict__ dvalue, const unsigned* rows, int capacity, int classes) {
    const long long row = warp_row();
    if (row >= active_rows(rows, capacity)) return;
    const float* p_row = p + row * classes;
    const float* q_row = q + row * classes;
    const Divergence both(p_row, q_row, classes);
    const float value = both.kl(p_row, q_row, classes);
    for (int j = threadIdx.x % WARP; j < classes; j += WARP) {
        const float change = both.p.probability(p_row[j]) * (both.log_ratio(p_row[j], q_row[j]) - value);
        dp[row * classes + j] = dvalue[row] * change;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    kl_backward_q(float* __restrict__ dq, const float* __restrict__ p, const float* __restrict__ q,
                  const float* __restrict__ dvalue, const unsigned* rows, int capacity, int classes) {
    const long long row = warp_row();
    if (row >= active_rows(rows, capacity)) return;
    const float* p_row = p + row * classes;
    const float* q_row = q + row * classes;
    const Divergence both(p_row, q_row, classes);
    for (int j = threadIdx.x % WARP; j < classes; j += WARP) {
        dq[row * classes + j] = dvalue[row] * (both.q.probability(q_row[j]) - both.p.probability(p_row[j]));
    }
}

// 4 bytes a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    mean_weights(float* __restrict__ out, const unsigned* rows, int capacity) {
    const long long i = global_thread();
    const int n = active_rows(rows, capacity);
    if (i < n) out[i] = mean_weight(n);
}

// 8 bytes a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    hinge_weights(float* __restrict__ out, const float* __restrict__ eps, float hinge, const unsigned* rows,
                  int capacity) {
    const long long i = global_thread();
    const int n = active_rows(rows, capacity);
    if (i < n) out[i] = hinge_weight(eps[i], hinge, n);
}

// Adds a step's sums, and counts the step: 20 bytes a row. One block, so that the order of the terms is fixed.
extern "C" __global__ void __launch_bounds__(THREADS)
    accumulate_metrics(float* __restrict__ sums, unsigned* __restrict__ steps, const float* __restrict__ loss,
                       const float* __restrict__ logit_margin, const float* __restrict__ weights,
                       const float* __restrict__ weighted_loss, const float* __restrict__ eps, const unsigned* rows,
                       int capacity) {
    const int n = active_rows(rows, capacity);
    float loss_sum = 0.0f, weighted_sum = 0.0f, correct = 0.0f, eps_sum = 0.0f, zero_weights = 0.0f;
    for (long long i = threadIdx.x; i < n; i += THREADS) {
        loss_sum += loss[i];
        // A row with weight 0 may hold anything, NaN included: it is left out, not multiplied by 0.
        if (weights[i] > 0.0f) weighted_sum += weights[i] * weighted_loss[i];
        if (logit_margin[i] < 0.0f) correct += 1.0f;
        eps_sum += eps[i];
        if (weights[i] == 0.0f) zero_weights += 1.0f;
    }
    loss_sum = block_sum(loss_sum);
    weighted_sum = block_sum(weighted_sum);
    correct = block_sum(correct);
    eps_sum = block_sum(eps_sum);
    zero_weights = block_sum(zero_weights);
    if (threadIdx.x > 0) return;
    *steps += 1;
    sums[MetricPlace::STEPS] += 1.0f;
    sums[MetricPlace::EXAMPLES] += static_cast<float>(n);
    sums[MetricPlace::MEAN_LOSS] += loss_sum / static_cast<float>(n);
    sums[MetricPlace::WEIGHTED_LOSS] += weighted_sum;
    sums[MetricPlace::CORRECT] += correct;
    sums[MetricPlace::EPS] += eps_sum;
    sums[MetricPlace::ZERO_WEIGHTS] += zero_weights;
}
