// Optimizer steps, all parameters in one launch. The formulas are those of PyTorch's `optim.Adam` and `optim.SGD`.
//
// LeNet5 has 3,274,634 parameters. Adam reads five numbers a parameter and writes three: 32 bytes, 105 MB, 35 us at
// 3.0 TB/s; some 16 FLOPs. SGD: 24 bytes, 79 MB, 26 us.
#include "prelude.cuh"
#include "vector.cuh"

__device__ __forceinline__ float rate_at(const RateSchedule& schedule, unsigned step) {
    float rate = schedule.rate[0];
    for (unsigned i = 1; i < schedule.count && schedule.from[i] <= step; ++i) rate = schedule.rate[i];
    return rate;
}

// Gradient of a parameter: a weighted sum of the two losses' gradients, without the scale of the losses, and weight
// decay.
struct Gradient {
    float clean_coeff;
    float unscale;
    float weight_decay;

    __device__ __forceinline__ float operator()(float p, float dmargin, float dclean) const {
        return ((1.0f - clean_coeff) * dmargin + clean_coeff * dclean) * unscale + weight_decay * p;
    }
};

// True if the gradients of this step overflowed: the step is skipped. `overflow` is null where they can't.
__device__ __forceinline__ bool is_skipped(const unsigned* overflow, unsigned step) {
    return overflow != nullptr && *overflow == step + 1;
}

// True for infinity and NaN, whose exponents are all ones.
__device__ __forceinline__ bool overflows(float number) {
    constexpr unsigned EXPONENT = 0x7f800000u;
    return (__float_as_uint(number) & EXPONENT) == EXPONENT;
}

// Sets `overflow` to step + 1, once, and counts the step among the skipped ones.
__device__ __forceinline__ void report_overflow(bool found, unsigned* overflow, float* sums, unsigned step) {
    if (found && atomicMax(overflow, step + 1) <= step) sums[MetricPlace::SKIPPED_STEPS] += 1.0f;
}

// Searches the gradients for an overflow. 8 bytes a parameter: WideResNet-28-4 has 5,848,314, 47 MB, 16 us at 3.0 TB/s.
// An integer maximum is the same in any order of the threads.
extern "C" __global__ void __launch_bounds__(THREADS)
    find_overflow(unsigned* __restrict__ overflow, float* __restrict__ sums, const float* __restrict__ dmargin,
                  const float* __restrict__ dclean, const unsigned* __restrict__ step, int n) {
    const long long i = global_thread();
    if (i < n) report_overflow(overflows(dmargin[i]) || overflows(dclean[i]), overflow, sums, *step);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    find_overflow_x4(unsigned* __restrict__ overflow, float* __restrict__ sums, const float* __restrict__ dmargin,
                     const float* __restrict__ dclean, const unsigned* __restrict__ step, int n) {
    const auto any = [](float4 of) { return overflows(of.x) || overflows(of.y) || overflows(of.z) || overflows(of.w); };
    const long long start = 4 * global_thread();
    bool found = false;
    if (start + 4 <= n) {
        found = any(*reinterpret_cast<const float4*>(dmargin + start)) ||
                any(*reinterpret_cast<const float4*>(dclean + start));
    } else {
        for (long long i = start; i < n; ++i) found = found || overflows(dmargin[i]) || overflows(dclean[i]);
    }
    report_overflow(found, overflow, sums, *step);
}

// Adam's decay rates. In single precision 1 - 0.999 would be off by 5e-5, so the constants are computed in double
// precision.
constexpr double BETA1 = 0.9;
constexpr double BETA2 = 0.999;
constexpr float KEEP1 = static_cast<float>(BETA1);
constexpr float KEEP2 = static_cast<float>(BETA2);
constexpr float TAKE1 = static_cast<float>(1.0 - BETA1);
constexpr float TAKE2 = static_cast<float>(1.0 - BETA2);
constexpr float ADAM_EPS = 1e-8f;

struct Adam {
    Gradient gradient;
    float rate;  // learning rate / bias correction of the first moment
    float root;  // square root of the bias correction of the second moment

    __device__ __forceinline__ void operator()(float& p, float& m, float& v, float dmargin, float dclean) const {
        const float g = gradient(p, dmargin, dclean);
        m = KEEP1 * m + TAKE1 * g;
        v = KEEP2 * v + TAKE2 * g * g;
        p -= rate * (m / (sqrtf(v) / root + ADAM_EPS));
    }
};

// Numbers that depend on the step alone, computed once a block in double precision; `step` counts from 0.
__device__ __forceinline__ Adam adam_at(const RateSchedule& schedule, unsigned step, Gradient gradient) {
    SHARED(float, corrected, [2]);
    if (threadIdx.x == 0) {
        const double t = static_cast<double>(step) + 1.0;
        corrected[0] = static_cast<float>(static_cast<double>(rate_at(schedule, step)) / (1.0 - pow(BETA1, t)));
        corrected[1] = static_cast<float>(sqrt(1.0 - pow(BETA2, t)));
    }
    __syncthreads();
    return {gradient, corrected[0], corrected[1]};
}

// Without a clean loss, `dclean` is `dmargin` and its coefficient 0.
extern "C" __global__ void __launch_bounds__(THREADS)
    adam(float* __restrict__ p, float* __restrict__ m, float* __restrict__ v, const float* __restrict__ dmargin,
         const float* __restrict__ dclean, const unsigned* __restrict__ step,
         const unsigned* __restrict__ overflow, RateSchedule schedule, float clean_coeff, float unscale,
         float weight_decay, int n) {
    if (is_skipped(overflow, *step)) return;
    const Adam update = adam_at(schedule, *step, {clean_coeff, unscale, weight_decay});
    const long long i = global_thread();
    if (i < n) update(p[i], m[i], v[i], dmargin[i], dclean[i]);
}

// Four parameters a thread; the last thread takes the rest.
extern "C" __global__ void __launch_bounds__(THREADS)
    adam_x4(float* __restrict__ p, float* __restrict__ m, float* __restrict__ v, const float* __restrict__ dmargin,
            const float* __restrict__ dclean, const unsigned* __restrict__ step, const unsigned* __restrict__ overflow,
            RateSchedule schedule, float clean_coeff, float unscale, float weight_decay, int n) {
    if (is_skipped(overflow, *step)) return;
    const Adam update = adam_at(schedule, *step, {clean_coeff, unscale, weight_decay});
    const long long start = 4 * global_thread();
    if (start + 4 <= n) {
        float4 p4 = *reinterpret_cast<float4*>(p + start);
        float4 m4 = *reinterpret_cast<float4*>(m + start);
        float4 v4 = *reinterpret_cast<float4*>(v + start);
        const float4 dm4 = *reinterpret_cast<const float4*>(dmargin + start);
        const float4 dc4 = *reinterpret_cast<const float4*>(dclean + start);
        update(p4.x, m4.x, v4.x, dm4.x, dc4.x);
        update(p4.y, m4.y, v4.y, dm4.y, dc4.y);
        update(p4.z, m4.z, v4.z, dm4.z, dc4.z);
        update(p4.w, m4.w, v4.w, dm4.w, dc4.w);
        *reinterpret_cast<float4*>(p + start) = p4;
        *reinterpret_cast<float4*>(m + start) = m4;
        *reinterpret_cast<float4*>(v + start) = v4;
    } else {
        for (long long i = start; i < n; ++i) update(p[i], m[i], v[i], dmargin[i], dclean[i]);
    }
}

struct Sgd {
    Gradient gradient;
    float rate;
    float momentum;

    __device__ __forceinline__ void operator()(float& p, float& b, float dmargin, float dclean) const {
        b = momentum * b + gradient(p, dmargin, dclean);
        p -= rate * b;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    sgd(float* __restrict__ p, float* __restrict__ buffer, const float* __restrict__ dmargin,
        const float* __restrict__ dclean, const unsigned* __restrict__ step, const unsigned* __restrict__ overflow,
        RateSchedule schedule, float clean_coeff, float unscale, float weight_decay, float momentum, int n) {
    if (is_skipped(overflow, *step)) return;
    const Sgd update{{clean_coeff, unscale, weight_decay}, rate_at(schedule, *step), momentum};
    const long long i = global_thread();
    if (i < n) update(p[i], buffer[i], dmargin[i], dclean[i]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sgd_x4(float* __restrict__ p, float* __restrict__ buffer, const float* __restrict__ dmargin,
           const float* __restrict__ dclean, const unsigned* __restrict__ step, const unsigned* __restrict__ overflow,
           RateSchedule schedule, float clean_coeff, float unscale, float weight_decay, float momentum, int n) {
    if (is_skipped(overflow, *step)) return;
    const Sgd update{{clean_coeff, unscale, weight_decay}, rate_at(schedule, *step), momentum};
    const long long start = 4 * global_thread();
    if (start + 4 <= n) {
        float4 p4 = *reinterpret_cast<float4*>(p + start);
        float4 b4 = *reinterpret_cast<float4*>(buffer + start);
        const float4 dm4 = *reinterpret_cast<const float4*>(dmargin + start);
        const float4 dc4 = *reinterpret_cast<const float4*>(dclean + start);
        update(p4.x, b4.x, dm4.x, dc4.x);
        update(p4.y, b4.y, dm4.y, dc4.y);
        update(p4.z, b4.z, dm4.z, dc4.z);
        update(p4.w, b4.w, dm4.w, dc4.w);
        *reinterpret_cast<float4*>(p + start) = p4;
        *reinterpret_cast<float4*>(buffer + start) = b4;
    } else {
        for (long long i = start; i < n; ++i) update(p[i], buffer[i], dmargin[i], dclean[i]);
    }
}

// The step counter: one thread, the last launch of a step.
extern "C" __global__ void __launch_bounds__(THREADS)
    increment(unsigned* counter) {
    if (global_thread() == 0) *counter += 1u;
}
