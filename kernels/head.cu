// The head of a network under attack in one launch: the mean over pixels, the last layer, the loss's gradient with
// respect to the logits, and the gradients back to the features. Logits and loss are never written.
//
// A block takes an example. The features are read twice, the second time from the L2 cache, for the mask of ReLU;
// their gradient is written once. WideResNet-28-4 at a batch of 128, features of 8 x 8 x 256: 16.8 MB, 5.6 us; as
// halves 8.4 MB, 2.8 us; 5.5 MFLOP. LeNet5 at a batch of 50, 1024 features: 0.45 MB and 2 MFLOP, less than a launch.
// As ops of their own these are up to eight launches of 1 us each and more, and the wide ResNet moves 42 MB.
#include "batch_norm.cuh"
#include "loss.cuh"
#include "vector.cuh"

// Classes whose sums a thread has in registers. The data sets have ten.
constexpr int SUMS = 10;

// Operands of the last layer and of its loss.
struct HeadLayer {
    const float* w;     // [classes, in]
    const float* bias;  // [classes]
    int in;
    int classes;
    unsigned kind;  // of the loss
    float confidence;
};

// z = p w^T + bias, p and z in shared memory. A thread has the terms of every THREADS-th input, for SUMS classes at a
// time, so that their loads overlap; the threads' sums are added in a fixed order. Every thread of the block calls it.
__device__ __forceinline__ void head_logits(float* z, const float* p, const HeadLayer& layer) {
    SHARED(float, warps, [THREADS / WARP][SUMS]);
    for (int first = 0; first < layer.classes; first += SUMS) {
        float sums[SUMS] = {};
        for (int k = static_cast<int>(threadIdx.x); k < layer.in; k += THREADS) {
#pragma unroll
            for (int s = 0; s < SUMS; ++s) {
                const int j = first + s;
                if (j < layer.classes) sums[s] = fmaf(p[k], layer.w[static_cast<size_t>(j) * layer.in + k], sums[s]);
            }
        }
        __syncthreads();  // all threads have read the sums of the classes before
#pragma unroll
        for (int s = 0; s < SUMS; ++s) {
            const float sum = warp_sum(sums[s]);
            if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP][s] = sum;
        }
        __syncthreads();
        const int own = static_cast<int>(threadIdx.x);
        if (own < SUMS && first + own < layer.classes) {
            float sum = warps[0][own];
            for (int w = 1; w < THREADS / WARP; ++w) sum += warps[w][own];
            z[first + own] = sum + layer.bias[first + own];
        }
    }
    __syncthreads();
}

// Brings a gradient in shared memory to the norm and returns its own. Every thread of the block calls it.
__device__ __forceinline__ float to_norm(float* gradient, int numbers) {
    double sum = 0.0;
    for (int i = static_cast<int>(threadIdx.x); i < numbers; i += THREADS) sum += fabsf(gradient[i]);
    const float norm = static_cast<float>(block_sum(sum));
    const float factor = (norm < LEAST_GRADIENT_NORM ? LEAST_GRADIENT_NORM : norm) / GRADIENT_NORM;
    for (int i = static_cast<int>(threadIdx.x); i < numbers; i += THREADS) gradient[i] = gradient[i] / factor;
    __syncthreads();
    return norm;
}

// dx of one example; features and dx are `[pixels, in]`. Null: `norm` if the gradient is not normalized, `weight` and
// `variance` without batch norm. `averaged`: the norm is that of the mean's gradient, not of the logits'.
//
// Shared memory: the sums of `slices` parts of the pixels, which the mean and then its gradient replace; logits; their
// gradient.
template <int VECTOR, class Element>
__device__ __forceinline__ void head_backward_of(
    Element* __restrict__ dx, float* __restrict__ norm, const Element* __restrict__ features, const HeadLayer& layer,
    const unsigned* __restrict__ labels, const float* __restrict__ dvalue, const float* __restrict__ weight,
    const float* __restrict__ variance, bool averaged, bool relu, const unsigned* __restrict__ rows, int capacity,
    int pixels) {
    DYN_SHARED(float, shared);
    const int row = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
    if (row >= active_rows(rows, capacity)) return;
    const int in = layer.in, width = in / VECTOR, slices = max(1, min(pixels, THREADS / width));
    float* mean = shared;
    float* z = shared + slices * in;
    float* dz = z + layer.classes;
    features += static_cast<size_t>(row) * pixels * in;
    dx += static_cast<size_t>(row) * pixels * in;

    for (int at = thread; at < slices * width; at += THREADS) {
        const int slice = at / width, column = at % width;
        float sum[VECTOR] = {};
#pragma unroll 8
        for (int pixel = slice; pixel < pixels; pixel += slices) {
            float x[VECTOR];
            load_vector(x, features + (static_cast<size_t>(pixel) * width + column) * VECTOR);
            for (int v = 0; v < VECTOR; ++v) sum[v] += x[v];
        }
        store_vector(shared + static_cast<size_t>(at) * VECTOR, sum);
    }
    __syncthreads();
    const float count = static_cast<float>(pixels);
    for (int k = thread; k < in; k += THREADS) {
        float sum = shared[k];
        for (int slice = 1; slice < slices; ++slice) sum += shared[slice * in + k];
        mean[k] = sum / count;
    }
    __syncthreads();

    head_logits(z, mean, layer);
    if (thread < WARP) {
        loss_gradient(dz, z, static_cast<int>(labels[row]), dvalue[row], layer.kind, layer.confidence, layer.classes);
    }
    __syncthreads();
    float own_norm = 0.0f;
    if (norm != nullptr && !averaged) own_norm = to_norm(dz, layer.classes);

    for (int k = thread; k < in; k += THREADS) {
        float sum = 0.0f;
#pragma unroll 10
        for (int j = 0; j < layer.classes; ++j) sum = fmaf(dz[j], layer.w[static_cast<size_t>(j) * in + k], sum);
        mean[k] = sum;
    }
    __syncthreads();
    if (norm != nullptr && averaged) own_norm = to_norm(mean, in);
    if (norm != nullptr && thread == 0) norm[row] = own_norm;
    for (int k = thread; k < in; k += THREADS) {
        const float of_pixel = mean[k] / count;
        mean[k] = weight == nullptr ? of_pixel : of_pixel * batch_norm_scale(weight[k], variance[k]);
    }
    __syncthreads();

    const int vectors = pixels * width;
#pragma unroll 4
    for (int at = thread; at < vectors; at += THREADS) {
        float x[VECTOR], gradient[VECTOR];
        load_if(relu, x, features + static_cast<size_t>(at) * VECTOR);
        load_vector(gradient, mean + at % width * VECTOR);
        for (int v = 0; v < VECTOR; ++v) gradient[v] = !relu || x[v] > 0.0f ? gradient[v] : 0.0f;
        store_vector(dx + static_cast<size_t>(at) * VECTOR, gradient);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    head_backward(float* __restrict__ dx, float* __restrict__ norm, const float* __restrict__ features,
                  const float* __restrict__ w, const float* __restrict__ bias, const unsigned* __restrict__ labels,
                  const float* __restrict__ dvalue, const float* __restrict__ weight,
                  const float* __restrict__ variance, unsigned kind, float confidence, int averaged, int relu,
                  const unsigned* __restrict__ rows, int capacity, int pixels, int in, int classes) {
    head_backward_of<1>(dx, norm, features, {w, bias, in, classes, kind, confidence}, labels, dvalue, weight, variance,
                        averaged != 0, relu != 0, rows, capacity, pixels);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    head_backward_x4(float* __restrict__ dx, float* __restrict__ norm, const float* __restrict__ features,
                     const float* __restrict__ w, const float* __restrict__ bias, const unsigned* __restrict__ labels,
                     const float* __restrict__ dvalue, const float* __restrict__ weight,
                     const float* __restrict__ variance, unsigned kind, float confidence, int averaged, int relu,
                     const unsigned* __restrict__ rows, int capacity, int pixels, int in, int classes) {
    head_backward_of<4>(dx, norm, features, {w, bias, in, classes, kind, confidence}, labels, dvalue, weight, variance,
                        averaged != 0, relu != 0, rows, capacity, pixels);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    head_backward_half(Half* __restrict__ dx, float* __restrict__ norm, const Half* __restrict__ features,
                       const float* __restrict__ w, const float* __restrict__ bias,
                       const unsigned* __restrict__ labels, const float* __restrict__ dvalue,
                       const float* __restrict__ weight, const float* __restrict__ variance, unsigned kind,
                       float confidence, int averaged, int relu, const unsigned* __restrict__ rows, int capacity,
                       int pixels, int in, int classes) {
    head_backward_of<1>(dx, norm, features, {w, bias, in, classes, kind, confidence}, labels, dvalue, weight, variance,
                        averaged != 0, relu != 0, rows, capacity, pixels);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    head_backward_half_x4(Half* __restrict__ dx, float* __restrict__ norm, const Half* __restrict__ features,
                          const float* __restrict__ w, const float* __restrict__ bias,
                          const unsigned* __restrict__ labels, const float* __restrict__ dvalue,
                          const float* __restrict__ weight, const float* __restrict__ variance, unsigned kind,
                          float confidence, int averaged, int relu, const unsigned* __restrict__ rows, int capacity,
                          int pixels, int in, int classes) {
    head_backward_of<4>(dx, norm, features, {w, bias, in, classes, kind, confidence}, labels, dvalue, weight, variance,
                        averaged != 0, relu != 0, rows, capacity, pixels);
}
