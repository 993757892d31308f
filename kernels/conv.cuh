// Convolutions as products of matrices that are never written: what an element of each is, is found in the images where
// they lie (implicit GEMM). x [n, h, w, c], w [k, kh, kw, c], y [n, out_h, out_w, k].
#pragma once

#include "gemm.cuh"

// number / divisor, for numbers below 2^31.
__device__ __forceinline__ int divide(int number, const Divisor& divisor) {
    const unsigned long long wide = static_cast<unsigned>(number);
    return static_cast<int>(wide * divisor.multiplier >> divisor.shift);
}

// Elements of a filter.
__device__ __forceinline__ int filter_size(const ConvShape& s) { return s.kh * s.kw * s.c; }

// The four outputs of a pooling window have the places 0 to 3, row by row.
constexpr int PLACES = 4;

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
    const int image = divide(cell, s.by_image), rest = cell - image * cells;
    const int y = divide(rest, s.by_row), x = rest - y * columns;
    if constexpr (POOLED) return {image, 2 * y + i % PLACES / 2, 2 * x + i % 2};
    return {image, y, x};
}

// A tap of a filter, and a channel (of x or of y: `channels`).
struct Tap {
    int y, x, channel;
};

__device__ __forceinline__ Tap tap(const ConvShape& s, int i, int channels, const Divisor& by_channels) {
    const int at = divide(i, by_channels), y = divide(at, s.by_kw);
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

    __device__ Line line(int i) const { return i < filter_size(s) ? tap(s, i, s.c, s.by_c) : Tap{OUTSIDE, OUTSIDE, 0}; }
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

// Blocks that share a multiprocessor where the compiler, left to itself, tries to fit more, and spills: it makes do
// with 128 registers for `Gradients` and `ChosenAcross` element by element, which with four blocks may have all 255,
// and with 96 for `conv2d_backward_weight_square`, which may have 128.
constexpr int RESIDENT = 4;

// The pixels of x that meet the same taps of a filter, `stride` apart as these taps are: x has stride^2 such classes.
// Class by class no tap is visited that leads to no output, whatever the stride. The first classes have the most taps.
struct PixelClass {
    int tap_y, tap_x, taps_y, taps_x;  // the first tap, and how many there are
    Divisor by_taps;                   // of a row
    int y, x, high, wide;              // the first pixel, and how many there are of an image
    int out_y, out_x;                  // the output that the first tap leads to from the first pixel
    int stride;

    __device__ PixelClass(const ConvShape& s, int number) : stride{s.stride} {
        tap_y = number / stride, tap_x = number % stride;
        taps_y = ceil_div(s.kh - tap_y, stride), taps_x = ceil_div(s.kw - tap_x, stride);
        by_taps = tap_x < s.kw % stride ? s.by_more : s.by_less;
        y = (tap_y - s.padding % stride + stride) % stride, x = (tap_x - s.padding % stride + stride) % stride;
        high = ceil_div(s.h - y, stride), wide = ceil_div(s.w - x, stride);
        out_y = (y + s.padding - tap_y) / stride, out_x = (x + s.padding - tap_x) / stride;
    }

    __device__ int pixels() const { return high * wide; }

    __device__ Pixel pixel(int i) const {
        const int image = i / pixels(), rest = i - image * pixels(), row = rest / wide;
        return {image, y + row * stride, x + (rest - row * wide) * stride};
    }
};

// The order of such pixels in x.
struct InClass {
    int rows;
    const ConvShape& s;
    const PixelClass& of;

    __device__ size_t operator()(int row) const {
        if (s.stride == 1) return row;
        const Pixel at = of.pixel(row);
        return static_cast<size_t>(at.image * s.h + at.y) * s.w + at.x;
    }
};

// The outputs that an element of x is part of, a line a pixel of a class: element (i, j, filter) is the gradient of the
// output that tap (i, j) of the class's taps of that filter leads to, 0 if there is none. POOLED: dy is the pooled
// outputs' gradient.
template <bool POOLED>
struct Gradients {
    static constexpr bool ALONG = true, PLAIN = false;
    struct Line {
        size_t image;  // its first gradient
        int y, x;
    };
    const ConvShape& s;
    const PixelClass& of;
    const float* dy;
    const unsigned char* choice;
    int pixels;

    __device__ Line line(int i) const {
        if (i >= pixels) return {0, OUTSIDE, OUTSIDE};
        const int image = i / of.pixels(), rest = i - image * of.pixels(), y = rest / of.wide, x = rest - y * of.wide;
        const int outputs = s.out_h * s.out_w / (POOLED ? PLACES : 1);
        return {static_cast<size_t>(image) * (outputs * s.k), of.out_y + y, of.out_x + x};
    }
    template <int VECTOR>
    __device__ void load(bool live, float (&to)[VECTOR], const Line& line, int at) const {
        const int tap = divide(at, s.by_k), filter = at - tap * s.k, i = divide(tap, of.by_taps);
        const int y = line.y - i, x = line.x - (tap - i * of.taps_x);
        const bool met = live && static_cast<unsigned>(y) < static_cast<unsigned>(s.out_h) &&
                         static_cast<unsigned>(x) < static_cast<unsigned>(s.out_w);
        if constexpr (POOLED) {
            const size_t cell = line.image + (y / 2 * (s.out_w / 2) + x / 2) * s.k + filter;
            load_chosen(met, to, dy + cell, choice + cell, y % 2 * 2 + x % 2);
        } else {
            load_if(met, to, dy + line.image + (y * s.out_w + x) * s.k + filter);
        }
    }
};

// The filters, turned: a line a channel of x, element (i, j, filter) of a class's taps.
struct FiltersAcross {
    static constexpr bool ALONG = false, PLAIN = true;
    using Line = const float*;
    const ConvShape& s;
    const PixelClass& of;
    const float* data;  // w

    __device__ Line line(int i) const { return i < s.c ? data + i : nullptr; }
    __device__ Place place(Line line, int at) const {
        const int tap = divide(at, s.by_k), filter = at - tap * s.k, i = divide(tap, of.by_taps);
        const int y = of.tap_y + i * s.stride, x = of.tap_x + (tap - i * of.taps_x) * s.stride;
        return {line + static_cast<size_t>(filter) * filter_size(s) + (y * s.kw + x) * s.c, line != nullptr};
    }
};

// The pixels of a shortcut's x under the outputs, a line an output: its channels.
struct ShortcutPixels {
    static constexpr bool ALONG = true, PLAIN = true;
    using Line = const float*;
    const ConvShape& s;
    const Shortcut& shortcut;
    const float* data;  // x
    int outputs;

    __device__ Line line(int i) const {
        if (i >= outputs) return nullptr;
        const auto [h, w, channels, stride] = shortcut.shape;
        const Pixel at = output_pixel<false>(s, i);
        return data + (static_cast<size_t>(at.image * h + at.y * stride) * w + at.x * stride) * channels;
    }
    __device__ Place place(Line line, int channel) const { return {line + channel, line != nullptr}; }
};

// The gradients of a shortcut's outputs, a line a pixel of a class: those of the output that it leads to, 0 if there is
// none.
struct ShortcutGradients {
    static constexpr bool ALONG = true, PLAIN = true;
    using Line = const float*;
    const PixelClass& of;
    const Shortcut& shortcut;
    const float* data;  // dy
    int pixels;

    __device__ Line line(int i) const {
        if (i >= pixels) return nullptr;
        const auto [h, w, channels, stride] = shortcut.shape;
        const Pixel at = of.pixel(i);
        if (at.y % stride != 0 || at.x % stride != 0) return nullptr;
        return data + (static_cast<size_t>(at.image * h + at.y / stride) * w + at.x / stride) * channels;
    }
    __device__ Place place(Line line, int filter) const { return {line + filter, line != nullptr}; }

    // How many filters a pixel of the class can meet.
    __device__ int length() const {
        const bool never = of.stride == shortcut.shape.stride && (of.y | of.x) != 0;
        return never ? 0 : shortcut.shape.channels;
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

    __device__ int start(int column) const { return column; }
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
