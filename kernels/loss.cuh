// Terms of the losses of a row of logits, and their gradient. A warp takes a row: every lane calls these functions.
// The logits may be in global or in shared memory.
#pragma once

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

// Loss of a row with logits z and label y. Every lane of the warp calls it and gets the result.
__device__ __forceinline__ float loss_of(const float* __restrict__ z, int y, unsigned kind, float confidence,
                                         int classes) {
    const Margins m = margins(z, y, classes);
    float value = m.lm;
    // log(1 + e^slm), without overflow, and accurate if it is tiny.
    if (kind == LossKind::XENT) value = larger(m.slm, 0.0f) + log1pf(expf(-fabsf(m.slm)));
    if (kind == LossKind::SLM) value = m.slm;
    if (kind == LossKind::CW) value = m.lm + confidence < 0.0f ? 0.0f : m.lm + confidence;
    if (kind == LossKind::DLR) value = Ratio(z, m.best, y, 3, classes).value;
    return value;
}

// Gradient of a row's loss: dz = dvalue times the derivatives with respect to the logits z. Every lane calls it.
__device__ __forceinline__ void loss_gradient(float* __restrict__ dz, const float* __restrict__ z, int y, float dvalue,
                                              unsigned kind, float confidence, int classes) {
    const Margins m = margins(z, y, classes);
    float slope = 1.0f;
    // Xent is softplus(slm): its gradient is slm's times sigmoid(slm).
    if (kind == LossKind::XENT) {
        const float e = expf(-fabsf(m.slm));
        slope = m.slm > 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e);
    }
    if (kind == LossKind::CW && m.lm + confidence < 0.0f) slope = 0.0f;
    slope *= dvalue;
    if (kind == LossKind::DLR) {
        const Ratio ratio(z, m.best, y, 3, classes);
        for (int j = threadIdx.x % WARP; j < classes; j += WARP) dz[j] = slope * ratio.derivative(j);
        return;
    }
    for (int j = threadIdx.x % WARP; j < classes; j += WARP) {
        float own = j == m.best ? slope : 0.0f;
        // Not e^(z_j - logsumexp): with large logits that exponent has lost its last digits.
        if (kind == LossKind::XENT || kind == LossKind::SLM) own = slope * (expf(z[j] - m.largest) / m.sum);
        dz[j] = j == y ? -slope : own;
    }
}

// Weight of an example in a mean over n, and of one whose margin is eps: 0 from d_max on.
__device__ __forceinline__ float mean_weight(int n) { return 1.0f / static_cast<float>(n); }
__device__ __forceinline__ float hinge_weight(float eps, float hinge, int n) {
    return eps < hinge ? mean_weight(n) : 0.0f;
}
