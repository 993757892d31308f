// Convolutions as products of matrices that are never written: what an element of each is, is found in the images where
// they lie (implicit GEMM). x [n, h, w, c], w [k, kh, kw, c], y [n, out_h, out_w, k].
#pragma once

#include "gemm.cuh"

// Divides numbers below 2^31 by one that is known before the launch: a multiplication and a shift.
struct Divisor {
    unsigned multiplier, shift;

    __device__ __forceinline__ int divide(int number) const {
        return static_cast<int>(static_cast<unsigned long long>(static_cast<unsigned>(number)) * multiplier >> shift);
    }
};

// `ConvShape` in src/device/cuda/lower/conv.rs.
struct ConvShape {
    int h, w, c;
    int k, kh, kw;
    int out_h, out_w;
    int padding, stride;
    int chunk;         // terms of a sum that one share has
    Divisor by_c, by_k, by_kw, by_stride;
    Divisor by_image, by_row;  // outputs of an image and of a row of it; pooled, where the op pools

    __device__ int filter() const { return kh * kw * c; }
};

// The four outputs of a pooling window have the places 0 to 3, row by row.
constexpr int PLACES = 4;
// What the choice is where ReLU is 0 and nothing was chosen.
constexpr unsigned char NO_CHOICE = 4;

// An output of the convolution.
struct Pixel {
    int image, y, x;
};

// Output i of a batch: in order of images, rows and columns; POOLED, the four of each pooling window follow one
// another.
template <bool POOLED>
__device__ __forceinline__ Pixel output_pixel(const ConvShape& s, int i) {
    const int cell = POOLED ? i / PLACES : i;
    const int columns = POOLED ? s.out_w / 2 : s.out_w, cells = POOLED ? s.out_h / 2 * columns : s.out_h * columns;
    const int image = s.by_image.divide(cell), rest = cell - image * cells;
    const int y = s.by_row.divide(rest), x = rest - y * columns;
    if constexpr (POOLED) return {image, 2 * y + i % PLACES / 2, 2 * x + i % 2};
    return {image, y, x};
}

// A tap of a filter, and a channel (of x or of y: `channels`).
struct Tap {
    int y, x, channel;
};

__device__ __forceinline__ Tap tap(const ConvShape& s, int i, int channels, const Divisor& by_channels) {
    const int at = by_channels.divide(i), y = s.by_kw.divide(at);
    return {y, at - y * s.kw, i - at * channels};
}

// A coordinate that lies outside every image, whatever tap is added to it.
constexpr int OUTSIDE = -(1 << 30);

__device__ __forceinline__ Place pixel(const ConvShape& s, const float* image, int y, int x, int channel) {
    const bool inside = static_cast<unsigned>(y) < static_cast<unsigned>(s.h) &&
                        static_cast<unsigned>(x) < static_cast<unsigned>(s.w);
    return {image + (y * s.w + x) * s.c + channel, inside};
}

// The windows of x, a line an output: element (ky, kx, c) of each.
template <bool POOLED>
struct Windows {
    static constexpr bool ALONG = true, PLAIN = true;
    struct Line {
        size_t image;  // its first element
        int y, x;
    };
    const ConvShape& s;
    const float* data;  // x
    int outputs;

    __device__ Line line(int i) const {
        if (i >= outputs) return {0, OUTSIDE, OUTSIDE};
        const Pixel at = output_pixel<POOLED>(s, i);
        const size_t image = static_cast<size_t>(at.image) * (s.h * s.w * s.c);
        return {image, at.y * s.stride - s.padding, at.x * s.stride - s.padding};
    }
    __device__ Place place(const Line& line, int i) const {
        const Tap at = tap(s, i, s.c, s.by_c);
        return pixel(s, data + line.image, line.y + at.y, line.x + at.x, at.channel);
    }
};

// The same, turned: a line a tap and channel of the filter, with what it meets at each output.
template <bool POOLED>
struct WindowsAcross {
    static constexpr bool ALONG = false, PLAIN = true;
    using Line = Tap;
    const ConvShape& s;
    const float* data;  // x

    __device__ Line line(int i) const { return i < s.filter() ? tap(s, i, s.c, s.by_c) : Tap{OUTSIDE, OUTSIDE, 0}; }
    __device__ Place place(const Line& line, int i) const {
        const Pixel at = output_pixel<POOLED>(s, i);
        const float* image = data + static_cast<size_t>(at.image) * (s.h * s.w * s.c);
        const int y = at.y * s.stride - s.padding, x = at.x * s.stride - s.padding;
        return pixel(s, image, y + line.y, x + line.x, line.channel);
    }
};

// dy where the choice is `place`, else 0; 0 if not `live`.
template <int VECTOR>
__device__ __forceinline__ void load_chosen(
    bool live, float (&to)[VECTOR], const float* dy, const unsigned char* choice, int place) {
    load_if(live, to, dy);
    if constexpr (VECTOR == 4) {
        uchar4 chosen = make_uchar4(NO_CHOICE, NO_CHOICE, NO_CHOICE, NO_CHOICE);
        if (live) chosen = *reinterpret_cast<const uchar4*>(choice);
        to[0] = chosen.x == place ? to[0] : 0.0f;
        to[1] = chosen.y == place ? to[1] : 0.0f;
        to[2] = chosen.z == place ? to[2] : 0.0f;
        to[3] = chosen.w == place ? to[3] : 0.0f;
    } else {
        to[0] = (live ? *choice : NO_CHOICE) == place ? to[0] : 0.0f;
    }
}

// Blocks that share a multiprocessor where the compiler, left to itself, tries to fit more, and spills: it makes do with
// 128 registers for `Gradients` element by element, which with four blocks may have all 255, and with 96 for
// `conv2d_backward_weight_square`, which may have 128.
constexpr int RESIDENT = 4;

// The outputs that an element of x is part of, a line an element's place: element (ky, kx, filter) is the gradient of
// the output that tap (ky, kx) of that filter leads to, 0 if there is none. POOLED: dy is the pooled outputs' gradient.
template <bool POOLED>
struct Gradients {
    static constexpr bool ALONG = true, PLAIN = false;
    struct Line {
        size_t image;  // its first gradient
        int y, x;
    };
    const ConvShape& s;
    const float* dy;
    const unsigned char* choice;
    int pixels;

    __device__ Line line(int i) const {
        if (i >= pixels) return {0, OUTSIDE, OUTSIDE};
        const int image = i / (s.h * s.w), rest = i - image * (s.h * s.w), y = rest / s.w, x = rest - y * s.w;
        const int outputs = s.out_h * s.out_w / (POOLED ? PLACES : 1);
        return {static_cast<size_t>(image) * (outputs * s.k), y + s.padding, x + s.padding};
    }
    template <int VECTOR>
    __device__ void load(bool live, float (&to)[VECTOR], const Line& line, int i) const {
        const Tap at = tap(s, i, s.k, s.by_k);
        const int above = line.y - at.y, left = line.x - at.x;
        const int y = s.by_stride.divide(above), x = s.by_stride.divide(left);
        const bool met = live && (above | left) >= 0 && y * s.stride == above && x * s.stride == left &&
                         y < s.out_h && x < s.out_w;
        if constexpr (POOLED) {
            const size_t cell = line.image + (y / 2 * (s.out_w / 2) + x / 2) * s.k + at.channel;
            load_chosen(met, to, dy + cell, choice + cell, y % 2 * 2 + x % 2);
        } else {
            load_if(met, to, dy + line.image + (y * s.out_w + x) * s.k + at.channel);
        }
    }
};

// The filters, turned: a line a channel of x, element (ky, kx, filter).
struct FiltersAcross {
    static constexpr bool ALONG = false, PLAIN = true;
    using Line = const float*;
    const ConvShape& s;
    const float* data;  // w

    __device__ Line line(int i) const { return i < s.c ? data + i : nullptr; }
    __device__ Place place(Line line, int i) const {
        const int at = s.by_k.divide(i), filter = i - at * s.k;
        return {line + static_cast<size_t>(filter) * s.filter() + at * s.c, line != nullptr};
    }
};

// The gradients of all outputs, a line a filter, in the order of `output_pixel<true>`.
struct ChosenAcross {
    static constexpr bool ALONG = false, PLAIN = false;
    using Line = int;
    const float* dy;
    const unsigned char* choice;
    int k;

    __device__ Line line(int i) const { return i < k ? i : -1; }
    template <int VECTOR>
    __device__ void load(bool live, float (&to)[VECTOR], Line line, int i) const {
        const size_t cell = static_cast<size_t>(i / PLACES) * k + line;
        load_chosen(live && line >= 0, to, dy + cell, choice + cell, i % PLACES);
    }
};

// Adds the bias to the largest of a pooling window's four outputs, which a thread has in four rows, and applies ReLU;
// the first of equal ones is chosen. Comparisons are such that not-a-number passes as on the CPU.
struct Pool {
    float* out;
    unsigned char* choice;
    const float* bias;
    int rows, columns;

    __device__ void operator()(int row, int column, const float (*values)[QUAD]) const {
        if (row >= rows) return;
        const size_t cell = static_cast<size_t>(row / PLACES) * columns + column;
        for (int j = 0; j < QUAD && column + j < columns; ++j) {
            float most = values[0][j];
            int place = 0;
            for (int i = 1; i < PLACES; ++i) {
                const bool more = values[i][j] > most;
                most = more ? values[i][j] : most;
                place = more ? i : place;
            }
            const float value = most + bias[column + j];
            out[cell + j] = value <= 0.0f ? 0.0f : value;
            choice[cell + j] = value > 0.0f ? static_cast<unsigned char>(place) : NO_CHOICE;
        }
    }
};
static_assert(PLACES == QUAD);
