// The head of a network under attack in one launch: the mean over pixels, the last layer, the loss's gradient with
// respect to the logits, and the gradients back to the features. Logits and loss are never written.
//
// A block takes an example. The features are read twice, the second time from the L2 cache, for the mask of ReLU;
// their gradient is written once. WideResNet-28-4 at a batch of 128, features of 8 x 8 x 256: 16.8 MB, 5.6 us; as
// halves 8.4 MB, 2.8 us; 5.5 MFLOP. As ops of their own these are up to eight launches of 1 us each and more, and the
// wide ResNet moves 42 MB.
//
// Features of a hidden layer are never written: the head adds the splits of the layer's sums itself. LeNet5 at a batch of
// 50, 1024 features in 16 splits: 3.3 MB from the L2 cache, 0.25 MB else, and 3 MFLOP: 1.2 us at 3.0 TB/s.
#include "epilogue.cuh"
#include "loss.cuh"
#include "vector.cuh"

// Classes whose sums a thread has in registers. The data sets have ten.
constexpr int SUMS = 10;

// Resident blocks a multiprocessor. An example has one block, so they are few; the compiler by default aims at 40
// registers, and spills.
constexpr int HEAD_RESIDENT_BLOCKS = 2;

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

// Gradient dz of the loss with respect to the logits of features p; dz, p and z, the logits, are in shared memory.
// Normalized: dz is brought to the norm; returns its own norm, else 0. Every thread of the block calls it.
__device__ __forceinline__ float logits_backward(float* dz, float* z, const float* p, const HeadLayer& layer,
                                                 const unsigned* label, const float* dvalue, bool normalized) {
    head_logits(z, p, layer);
    if (threadIdx.x < WARP) {
        loss_gradient(dz, z, static_cast<int>(*label), *dvalue, layer.kind, layer.confidence, layer.classes);
    }
    __syncthreads();
    return normalized ? to_norm(dz, layer.classes) : 0.0f;
}

// Gradient with respect to input k of the last layer.
__device__ __forceinline__ float input_gradient(const float* dz, const HeadLayer& layer, int k) {
    float sum = 0.0f;
#pragma unroll 10
    for (int j = 0; j < layer.classes; ++j) {
        sum = fmaf(dz[j], layer.w[static_cast<size_t>(j) * layer.in + k], sum);
    }
    return sum;
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

    float own_norm = logits_backward(dz, z, mean, layer, labels + row, dvalue + row, norm != nullptr && !averaged);
    for (int k = thread; k < in; k += THREADS) mean[k] = input_gradient(dz, layer, k);
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

extern "C" __global__ void __launch_bounds__(THREADS, HEAD_RESIDENT_BLOCKS)
    head_backward(float* __restrict__ dx, float* __restrict__ norm, const float* __restrict__ features,
                  const float* __restrict__ w, const float* __restrict__ bias, const unsigned* __restrict__ labels,
                  const float* __restrict__ dvalue, const float* __restrict__ weight,
                  const float* __restrict__ variance, unsigned kind, float confidence, int averaged, int relu,
                  const unsigned* __restrict__ rows, int capacity, int pixels, int in, int classes) {
    head_backward_of<1>(dx, norm, features, {w, bias, in, classes, kind, confidence}, labels, dvalue, weight, variance,
                        averaged != 0, relu != 0, rows, capacity, pixels);
}

extern "C" __global__ void __launch_bounds__(THREADS, HEAD_RESIDENT_BLOCKS)
    head_backward_x4(float* __restrict__ dx, float* __restrict__ norm, const float* __restrict__ features,
                     const float* __restrict__ w, const float* __restrict__ bias, const unsigned* __restrict__ labels,
                     const float* __restrict__ dvalue, const float* __restrict__ weight,
                     const float* __restrict__ variance, unsigned kind, float confidence, int averaged, int relu,
                     const unsigned* __restrict__ rows, int capacity, int pixels, int in, int classes) {
    head_backward_of<4>(dx, norm, features, {w, bias, in, classes, kind, confidence}, labels, dvalue, weight, variance,
                        averaged != 0, relu != 0, rows, capacity, pixels);
}

extern "C" __global__ void __launch_bounds__(THREADS, HEAD_RESIDENT_BLOCKS)
    head_backward_half(Half* __restrict__ dx, float* __restrict__ norm, const Half* __restrict__ features,
                       const float* __restrict__ w, const float* __restrict__ bias,
                       const unsigned* __restrict__ labels, const float* __restrict__ dvalue,
                       const float* __restrict__ weight, const float* __restrict__ variance, unsigned kind,
                       float confidence, int averaged, int relu, const unsigned* __restrict__ rows, int capacity,
                       int pixels, int in, int classes) {
    head_backward_of<1>(dx, norm, features, {w, bias, in, classes, kind, confidence}, labels, dvalue, weight, variance,
                        averaged != 0, relu != 0, rows, capacity, pixels);
}

extern "C" __global__ void __launch_bounds__(THREADS, HEAD_RESIDENT_BLOCKS)
    head_backward_half_x4(Half* __restrict__ dx, float* __restrict__ norm, const Half* __restrict__ features,
                          const float* __restrict__ w, const float* __restrict__ bias,
                          const unsigned* __restrict__ labels, const float* __restrict__ dvalue,
                          const float* __restrict__ weight, const float* __restrict__ variance, unsigned kind,
                          float confidence, int averaged, int relu, const unsigned* __restrict__ rows, int capacity,
                          int pixels, int in, int classes) {
    head_backward_of<4>(dx, norm, features, {w, bias, in, classes, kind, confidence}, labels, dvalue, weight, variance,
                        averaged != 0, relu != 0, rows, capacity, pixels);
}

// Splits whose sums a thread has in registers. They are added in the order of `sum_split_rows`: every eighth split, then
// these sums.
constexpr int SPLITS_AT_ONCE = THREADS / WARP;
// Features whose splits a thread loads at once: so enough loads are pending.
constexpr int FEATURES_AT_ONCE = 4;

// dx of one example whose features are those of a hidden layer: ReLU of the sum of `parts` [splits, capacity, in] and
// `hidden_bias` [in]. dx [in] is the gradient with respect to that sum.
//
// Shared memory: the features; logits; their gradient.
template <class Element>
__device__ __forceinline__ void head_backward_of_hidden(
    Element* __restrict__ dx, float* __restrict__ norm, const float* __restrict__ parts,
    const float* __restrict__ hidden_bias, const HeadLayer& layer, const unsigned* __restrict__ labels,
    const float* __restrict__ dvalue, const unsigned* __restrict__ rows, int capacity, int splits) {
    DYN_SHARED(float, features);
    const int row = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x), in = layer.in;
    if (row >= active_rows(rows, capacity)) return;
    float* z = features + in;
    float* dz = z + layer.classes;
    const size_t stride = static_cast<size_t>(capacity) * in;
    parts += static_cast<size_t>(row) * in;
    dx += static_cast<size_t>(row) * in;

    for (int first = thread; first < in; first += FEATURES_AT_ONCE * THREADS) {
        float sums[FEATURES_AT_ONCE][SPLITS_AT_ONCE] = {};
        for (int split = 0; split < splits; split += SPLITS_AT_ONCE) {
#pragma unroll
            for (int f = 0; f < FEATURES_AT_ONCE; ++f) {
                const int k = first + f * THREADS;
#pragma unroll
                for (int s = 0; s < SPLITS_AT_ONCE; ++s) {
                    float part[1];
                    load_if(k < in && split + s < splits, part, parts + (split + s) * stride + k);
                    sums[f][s] += part[0];
                }
            }
        }
#pragma unroll
        for (int f = 0; f < FEATURES_AT_ONCE; ++f) {
            const int k = first + f * THREADS;
            if (k >= in) break;
            float sum = sums[f][0];
            for (int s = 1; s < SPLITS_AT_ONCE; ++s) sum += sums[f][s];
            features[k] = relu_of(sum + hidden_bias[k]);
        }
    }
    __syncthreads();
    const float own_norm = logits_backward(dz, z, features, layer, labels + row, dvalue + row, norm != nullptr);
    if (norm != nullptr && thread == 0) norm[row] = own_norm;
    for (int k = thread; k < in; k += THREADS) {
        const float gradient[1] = {relu_gradient(input_gradient(dz, layer, k), features[k])};
        store_vector(dx + k, gradient);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, HEAD_RESIDENT_BLOCKS)
    head_backward_hidden(float* __restrict__ dx, float* __restrict__ norm, const float* __restrict__ parts,
                         const float* __restrict__ hidden_bias, const float* __restrict__ w,
                         const float* __restrict__ bias, const unsigned* __restrict__ labels,
                         const float* __restrict__ dvalue, unsigned kind, float confidence,
                         const unsigned* __restrict__ rows, int capacity, int in, int classes, int splits) {
    head_backward_of_hidden(dx, norm, parts, hidden_bias, {w, bias, in, classes, kind, confidence}, labels, dvalue, rows,
                            capacity, splits);
}

extern "C" __global__ void __launch_bounds__(THREADS, HEAD_RESIDENT_BLOCKS)
    head_backward_hidden_half(Half* __restrict__ dx, float* __restrict__ norm, const float* __restrict__ parts,
                              const float* __restrict__ hidden_bias, const float* __restrict__ w,
                              const float* __restrict__ bias, const unsigned* __restrict__ labels,
                              const float* __restrict__ dvalue, unsigned kind, float confidence,
                              const unsigned* __restrict__ rows, int capacity, int in, int classes, int splits) {
    head_backward_of_hidden(dx, norm, parts, hidden_bias, {w, bias, in, classes, kind, confidence}, labels, dvalue, rows,
                            capacity, splits);
}
