// Losses of examples, weights of examples, and the sums that training reports.
//
// A warp takes a row of logits `[n, classes]`: 4 bytes a logit forward, 8 backward, some 20 FLOPs each. At batch 50 and
// 10 classes that is 4 KB: less than a launch.
#include "prelude.cuh"

// Quantities that the losses of a row are computed from; equal in every lane.
struct Margins {
    float slm;
    float lm;
    int best;       // the first j != y with the largest logit
    float largest;  // that logit
    float sum;      // of e^(z_j - largest) over j != y
};

// Every lane of the warp calls it.
__device__ __forceinline__ Margins margins(const float* __restrict__ z, int y, int classes) {
    const int lane = threadIdx.x % WARP;
    // All lanes start with the first other class. If its logit is NaN, no logit is larger, and the results are NaN.
    int best = y == 0 ? 1 : 0;
    float largest = z[best];
    for (int j = lane; j < classes; j += WARP) {
        if (j != y && z[j] > largest) {
            best = j;
            largest = z[j];
        }
    }
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        const float value = __shfl_xor_sync(FULL_MASK, largest, lanes);
        const int at = __shfl_xor_sync(FULL_MASK, best, lanes);
        if (value > largest || (value == largest && at < best)) {
            best = at;
            largest = value;
        }
    }
    float sum = 0.0f;
    for (int j = lane; j < classes; j += WARP) {
        if (j != y) sum += expf(z[j] - largest);
    }
    sum = warp_sum(sum);
    const float lm = largest - z[y];
    return {logf(sum) + lm, lm, best, largest, sum};
}

// Rank key of a logit: a larger logit has a larger key, and of equal logits the first class has the largest. Numbers of
// one sign are ordered as their bits. NaN has a place in this order, too.
__device__ __forceinline__ unsigned long long place(float z, int j) {
    const unsigned bits = __float_as_uint(z + 0.0f);  // -0 has the key of 0
    const unsigned key = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    return static_cast<unsigned long long>(key) << 32 | ~static_cast<unsigned>(j + 1);
}

constexpr unsigned long long ABOVE_ALL = ~0ull;

// The largest key below another. Every lane of the warp calls it and gets the result.
__device__ __forceinline__ unsigned long long next_place(const float* __restrict__ z, int classes,
                                                         unsigned long long before) {
    unsigned long long found = 0;
    for (int j = threadIdx.x % WARP; j < classes; j += WARP) {
        const unsigned long long own = place(z[j], j);
        if (own < before && own > found) found = own;
    }
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        const unsigned long long other = __shfl_xor_sync(FULL_MASK, found, lanes);
        if (other > found) found = other;
    }
    return found;
}

__device__ __forceinline__ int class_of(unsigned long long place) {
    return static_cast<int>(~static_cast<unsigned>(place)) - 1;
}

// The DLR loss: a difference of two logits divided by a difference of others.
struct Ratio {
    int raised;
    int lowered;
    int first;     // the class with the largest logit
    int lower[2];  // the classes whose mean logit is subtracted from it
    float under;
    float value;

    // (z_raised - z_lowered) / (z_(1) - (z_(3) + z_(last)) / 2 + 1e-12); last is 3 or 4. Every lane calls it.
    __device__ __forceinline__ Ratio(const float* __restrict__ z, int raised, int lowered, int last, int classes)
        : raised(raised), lowered(lowered) {
        unsigned long long at = next_place(z, classes, ABOVE_ALL);
        first = class_of(at);
        at = next_place(z, classes, next_place(z, classes, at));
        lower[0] = class_of(at);
        if (last == 4) at = next_place(z, classes, at);
        lower[1] = class_of(at);
        under = 0.5f * ((z[first] - z[lower[0]]) + (z[first] - z[lower[1]])) + 1e-12f;
        value = (z[raised] - z[lowered]) / under;
    }

    __device__ __forceinline__ float derivative(int j) const {
        const float over = static_cast<float>(j == raised) - static_cast<float>(j == lowered);
        const float lowers = static_cast<float>(j == lower[0]) + static_cast<float>(j == lower[1]);
        return (over - value * (static_cast<float>(j == first) - 0.5f * lowers)) / under;
    }
};

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
    const Margins m = margins(z, y, classes);
    float value = m.lm;
    // log(1 + e^slm), without overflow, and accurate if it is tiny.
    if (kind == LossKind::XENT) value = larger(m.slm, 0.0f) + log1pf(expf(-fabsf(m.slm)));
    if (kind == LossKind::SLM) value = m.slm;
    if (kind == LossKind::CW) value = m.lm + confidence < 0.0f ? 0.0f : m.lm + confidence;
    if (kind == LossKind::DLR) value = Ratio(z, m.best, y, 3, classes).value;
    if (threadIdx.x % WARP == 0) out[row] = factor * value;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    loss_backward(float* __restrict__ dlogits, const float* __restrict__ logits, const unsigned* __restrict__ labels,
                  const float* __restrict__ dvalue, unsigned kind, float confidence, float factor, const unsigned* rows,
                  int capacity, int classes) {
    const long long row = warp_row();
    if (row >= active_rows(rows, capacity)) return;
    const float* z = logits + row * classes;
    const int y = static_cast<int>(labels[row]);
    const Margins m = margins(z, y, classes);
    float slope = 1.0f;
    // Xent is softplus(slm): its gradient is slm's times sigmoid(slm).
    if (kind == LossKind::XENT) {
        const float e = expf(-fabsf(m.slm));
        slope = m.slm > 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e);
    }
    if (kind == LossKind::CW && m.lm + confidence < 0.0f) slope = 0.0f;
    slope *= factor * dvalue[row];
    if (kind == LossKind::DLR) {
        const Ratio ratio(z, m.best, y, 3, classes);
        for (int j = threadIdx.x % WARP; j < classes; j += WARP) {
            dlogits[row * classes + j] = slope * ratio.derivative(j);
        }
        return;
    }
    for (int j = threadIdx.x % WARP; j < classes; j += WARP) {
        float dz = j == m.best ? slope : 0.0f;
        // Not e^(z_j - logsumexp): with large logits that exponent has lost its last digits.
        if (kind == LossKind::XENT || kind == LossKind::SLM) dz = slope * (expf(z[j] - m.largest) / m.sum);
        dlogits[row * classes + j] = j == y ? -slope : dz;
    }
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
    if (i < n) out[i] = 1.0f / static_cast<float>(n);
}

// 8 bytes a row.
extern "C" __global__ void __launch_bounds__(THREADS)
    hinge_weights(float* __restrict__ out, const float* __restrict__ eps, float hinge, const unsigned* rows,
                  int capacity) {
    const long long i = global_thread();
    const int n = active_rows(rows, capacity);
    if (i < n) out[i] = eps[i] < hinge ? 1.0f / static_cast<float>(n) : 0.0f;
}

// Adds a step's sums: 20 bytes a row. One block, so that the order of the terms is fixed.
extern "C" __global__ void __launch_bounds__(THREADS)
    accumulate_metrics(float* __restrict__ sums, const float* __restrict__ loss,
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
    sums[MetricPlace::STEPS] += 1.0f;
    sums[MetricPlace::EXAMPLES] += static_cast<float>(n);
    sums[MetricPlace::MEAN_LOSS] += loss_sum / static_cast<float>(n);
    sums[MetricPlace::WEIGHTED_LOSS] += weighted_sum;
    sums[MetricPlace::CORRECT] += correct;
    sums[MetricPlace::EPS] += eps_sum;
    sums[MetricPlace::ZERO_WEIGHTS] += zero_weights;
}
