// Convolutions as matrix products whose matrices are never written (implicit GEMM): the operands below compute the
// address of each element in the images. x [n, h, w, c], w [k, kh, kw, c], y [n, out_h, out_w, k].
#pragma once

#include "gemm.cuh"

// number / divisor, for numbers below 2^31.
__device__ __forceinline__ int divide(int number, const Divisor& divisor) {
    const unsigned long long wide = static_cast<unsigned>(number);
    return static_cast<int>(wide * divisor.multiplier >> divisor.shift);
}

// Elements of a filter.
__device__ __forceinline__ int filter_size(const ConvShape& s) { return s.kh * s.kw * s.c; }

// Outputs of a pooling window. They have the places 0 to 3, row by row.
constexpr int PLACES = 4;

// An output of the convolution.
struct Pixel {
    int image, y, x;
};

// Output i of a batch, in order of images, rows and columns. POOLED: the four outputs of each pooling window are
// adjacent.
template <bool POOLED>
__device__ __forceinline__ Pixel output_pixel(const ConvShape& s, int i) {
    const int cell = POOLED ? i / PLACES : i;
    const int columns = POOLED ? s.out_w / 2 : s.out_w, cells = POOLED ? s.out_h / 2 * columns : s.out_h * columns;
    const int image = divide(cell, s.by_image), rest = cell - image * cells;
    const int y = divide(rest, s.by_row), x = rest - y * columns;
    if constexpr (POOLED) return {image, 2 * y + i % PLACES / 2, 2 * x + i % 2};
    return {image, y, x};
}

// A tap of a filter, and a channel of x or of y.
struct Tap {
    int y, x, channel;
};

__device__ __forceinline__ Tap tap(const ConvShape& s, int i, int channels, const Divisor& by_channels) {
    const int at = divide(i, by_channels), y = divide(at, s.by_kw);
    return {y, at - y * s.kw, i - at * channels};
}

// A coordinate outside every image, also after any tap is added to it.
constexpr int OUTSIDE = -(1 << 30);

template <class Element>
__device__ __forceinline__ ElementAddress<Element> pixel(
    const ConvShape& s, const Element* image, int y, int x, int channel) {
    const bool inside = static_cast<unsigned>(y) < static_cast<unsigned>(s.h) &&
                        static_cast<unsigned>(x) < static_cast<unsigned>(s.w);
    return {image + (y * s.w + x) * s.c + channel, inside};
}

// Windows of x, one line an output: the elements (ky, kx, c) of its window (the rows of im2col).
template <bool POOLED, class Element = float>
struct WindowsKMajor {
    static constexpr bool K_MAJOR = true, IN_MEMORY = true;
    struct Line {
        size_t image;  // offset of the image
        int y, x;      // first pixel of the window
    };
    const ConvShape& s;
    const Element* data;  // x
    int outputs;

    __device__ Line line(int i) const {
        if (i >= outputs) return {0, OUTSIDE, OUTSIDE};
        const Pixel at = output_pixel<POOLED>(s, i);
        const size_t image = static_cast<size_t>(at.image) * (s.h * s.w * s.c);
        return {image, at.y * s.stride - s.padding, at.x * s.stride - s.padding};
    }
    __device__ ElementAddress<Element> address(const Line& line, int i) const {
        const Tap at = tap(s, i, s.c, s.by_c);
        return pixel(s, data + line.image, line.y + at.y, line.x + at.x, at.channel);
    }
};

// Transpose of `WindowsKMajor`: one line a tap and channel of the filter, one element an output.
template <bool POOLED, class Element = float>
struct WindowsMnMajor {
    static constexpr bool K_MAJOR = false, IN_MEMORY = true;
    using Line = Tap;
    const ConvShape& s;
    const Element* data;  // x

    __device__ Line line(int i) const { return i < filter_size(s) ? tap(s, i, s.c, s.by_c) : Tap{OUTSIDE, OUTSIDE, 0}; }
    __device__ ElementAddress<Element> address(const Line& line, int i) const {
        const Pixel at = output_pixel<POOLED>(s, i);
        const Element* image = data + static_cast<size_t>(at.image) * (s.h * s.w * s.c);
        const int y = at.y * s.stride - s.padding, x = at.x * s.stride - s.padding;
        return pixel(s, image, y + line.y, x + line.x, line.channel);
    }
};

// Loads dy if the choice is `place`, else 0; 0 if not `live`.
template <int VECTOR, class Element>
__device__ __forceinline__ void load_chosen(
    bool live, float (&to)[VECTOR], const Element* dy, const unsigned char* choice, int place) {
    load_if(live, to, dy);
    if constexpr (VECTOR == 1) {
        to[0] = (live ? *choice : NO_CHOICE) == place ? to[0] : 0.0f;
    } else {
#pragma unroll
        for (int v = 0; v < VECTOR; v += 4) {
            uchar4 chosen = make_uchar4(NO_CHOICE, NO_CHOICE, NO_CHOICE, NO_CHOICE);
            if (live) chosen = *reinterpret_cast<const uchar4*>(choice + v);
            to[v] = chosen.x == place ? to[v] : 0.0f;
            to[v + 1] = chosen.y == place ? to[v + 1] : 0.0f;
            to[v + 2] = chosen.z == place ? to[v + 2] : 0.0f;
            to[v + 3] = chosen.w == place ? to[v + 3] : 0.0f;
        }
    }
}

// Resident blocks a multiprocessor, for kernels where the compiler by default aims at more blocks, and spills. It
// limits itself to 128 registers for `GradientsKMajor` and `ChosenGradientsMnMajor` with single elements, which with
// four blocks may use 255, and to 96 for `conv2d_backward_weight_square`, which may use 128.
constexpr int RESIDENT_BLOCKS = 4;

// A class of pixels of x: those that the same taps of a filter reach. Pixels and taps of a class are `stride` apart,
// and there are stride^2 classes. Class by class, no tap without an output is visited, whatever the stride. The first
// classes have the most taps.
struct PixelClass {
    int tap_y, tap_x, taps_y, taps_x;  // first tap, number of taps
    Divisor by_taps;                   // divides by taps_x
    int y, x, high, wide;              // first pixel, number of pixels of an image
    int out_y, out_x;                  // output of the first pixel and the first tap
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

// Order of a class's pixels in x.
struct ClassOrder {
    int rows;
    const ConvShape& s;
    const PixelClass& pixel_class;

    __device__ size_t operator()(int row) const {
        if (s.stride == 1) return row;
        const Pixel at = pixel_class.pixel(row);
        return static_cast<size_t>(at.image * s.h + at.y) * s.w + at.x;
    }
};

// Gradients of the outputs that a pixel of x contributes to, one line a pixel of a class. Element (i, j, filter) is the
// gradient of the output of the class's tap (i, j), or 0 if there is no such output. POOLED: dy is the gradient of the
// pooled outputs.
template <bool POOLED, class Element = float>
struct GradientsKMajor {
    static constexpr bool K_MAJOR = true, IN_MEMORY = !POOLED;
    struct Line {
        size_t image;  // offset of the image in dy
        int y, x;      // output of the first tap
    };
    const ConvShape& s;
    const PixelClass& pixel_class;
    const Element* data;  // dy
    const unsigned char* choice;
    int pixels;

    __device__ Line line(int i) const {
        if (i >= pixels) return {0, OUTSIDE, OUTSIDE};
        const int image = i / pixel_class.pixels(), rest = i - image * pixel_class.pixels();
        const int y = rest / pixel_class.wide, x = rest - y * pixel_class.wide;
        const int outputs = s.out_h * s.out_w / (POOLED ? PLACES : 1);
        return {static_cast<size_t>(image) * (outputs * s.k), pixel_class.out_y + y, pixel_class.out_x + x};
    }
    // Output and filter of element `at`, and true if there is such an output.
    __device__ bool locate(const Line& line, int at, int& y, int& x, int& filter) const {
        const int tap = divide(at, s.by_k), i = divide(tap, pixel_class.by_taps);
        filter = at - tap * s.k, y = line.y - i, x = line.x - (tap - i * pixel_class.taps_x);
        return static_cast<unsigned>(y) < static_cast<unsigned>(s.out_h) &&
               static_cast<unsigned>(x) < static_cast<unsigned>(s.out_w);
    }
    __device__ ElementAddress<Element> address(const Line& line, int at) const {
        int y, x, filter;
        const bool met = locate(line, at, y, x, filter);
        return {data + line.image + (y * s.out_w + x) * s.k + filter, met};
    }
    template <int VECTOR>
    __device__ void load(bool live, float (&to)[VECTOR], const Line& line, int at) const {
        int y, x, filter;
        const bool met = locate(line, at, y, x, filter);
        const size_t cell = line.image + (y / 2 * (s.out_w / 2) + x / 2) * s.k + filter;
        load_chosen(live && met, to, data + cell, choice + cell, y % 2 * 2 + x % 2);
    }
};

// Transposed filters, one line a channel of x: elements (i, j, filter) of a class's taps.
struct FiltersMnMajor {
    static constexpr bool K_MAJOR = false, IN_MEMORY = true;
    using Line = const float*;
    const ConvShape& s;
    const PixelClass& pixel_class;
    const float* data;  // w

    __device__ Line line(int i) const { return i < s.c ? data + i : nullptr; }
    __device__ ElementAddress<float> address(Line line, int at) const {
        const int tap = divide(at, s.by_k), filter = at - tap * s.k, i = divide(tap, pixel_class.by_taps);
        const int y = pixel_class.tap_y + i * s.stride;
        const int x = pixel_class.tap_x + (tap - i * pixel_class.taps_x) * s.stride;
        return {line + static_cast<size_t>(filter) * filter_size(s) + (y * s.kw + x) * s.c, line != nullptr};
    }
};

// Turned filters [c, kh, kw, k], one line a channel of x: elements (i, j, filter) of a class's taps. Turned filters have
// their taps in reverse order.
struct TurnedFiltersKMajor {
    static constexpr bool K_MAJOR = true, IN_MEMORY = true;
    using Line = const Half*;
    const ConvShape& s;
    const PixelClass& pixel_class;
    const Half* data;

    __device__ Line line(int i) const {
        return i < s.c ? data + static_cast<size_t>(i) * (s.kh * s.kw * s.k) : nullptr;
    }
    __device__ ElementAddress<Half> address(Line line, int at) const {
        const int tap = divide(at, s.by_k), filter = at - tap * s.k, i = divide(tap, pixel_class.by_taps);
        const int y = pixel_class.tap_y + i * s.stride;
        const int x = pixel_class.tap_x + (tap - i * pixel_class.taps_x) * s.stride;
        return {line + ((s.kh - 1 - y) * s.kw + s.kw - 1 - x) * s.k + filter, line != nullptr};
    }
};

// Pixels of a shortcut's x, one line an output: the channels of its pixel.
template <class Element = float>
struct ShortcutPixelsKMajor {
    static constexpr bool K_MAJOR = true, IN_MEMORY = true;
    using Line = const Element*;
    const ConvShape& s;
    const Shortcut& shortcut;
    const Element* data;  // x
    int outputs;

    __device__ Line line(int i) const {
        if (i >= outputs) return nullptr;
        const auto [h, w, channels, stride] = shortcut.shape;
        const Pixel at = output_pixel<false>(s, i);
        return data + (static_cast<size_t>(at.image * h + at.y * stride) * w + at.x * stride) * channels;
    }
    __device__ ElementAddress<Element> address(Line line, int channel) const { return {line + channel, line != nullptr}; }
};

// Gradients of a shortcut's outputs, one line a pixel of a class: those of the pixel's output, or 0 if it has none.
template <class Element = float>
struct ShortcutGradientsKMajor {
    static constexpr bool K_MAJOR = true, IN_MEMORY = true;
    using Line = const Element*;
    const PixelClass& pixel_class;
    const Shortcut& shortcut;
    const Element* data;  // dy
    int pixels;

    __device__ Line line(int i) const {
        if (i >= pixels) return nullptr;
        const auto [h, w, channels, stride] = shortcut.shape;
        const Pixel at = pixel_class.pixel(i);
        if (at.y % stride != 0 || at.x % stride != 0) return nullptr;
        return data + (static_cast<size_t>(at.image * h + at.y / stride) * w + at.x / stride) * channels;
    }
    __device__ ElementAddress<Element> address(Line line, int filter) const { return {line + filter, line != nullptr}; }

    // Filters that contribute to a pixel of the class: all, or none.
    __device__ int length() const {
        const bool never = pixel_class.stride == shortcut.shape.stride && (pixel_class.y | pixel_class.x) != 0;
        return never ? 0 : shortcut.shape.channels;
    }
};

// Gradients of all outputs before pooling, one line a filter, in the order of `output_pixel<true>`.
template <class Element = float>
struct ChosenGradientsMnMajor {
    static constexpr bool K_MAJOR = false, IN_MEMORY = false;
    using Line = int;
    const Element* dy;
    const unsigned char* choice;
    int k;

    __device__ Line line(int i) const { return i < k ? i : -1; }
    template <int VECTOR>
    __device__ void load(bool live, float (&to)[VECTOR], Line line, int i) const {
        const size_t cell = static_cast<size_t>(i / PLACES) * k + line;
        load_chosen(live && line >= 0, to, dy + cell, choice + cell, i % PLACES);
    }
};

// Largest of the four outputs of a pooling window with the bias and ReLU, and the choice.
struct Pooled {
    float value;
    unsigned char choice;
};

// The first of equal outputs is chosen. NaN takes the same way through the comparisons as on the CPU.
__device__ __forceinline__ Pooled pool(const float (&window)[PLACES], float bias) {
    float most = window[0];
    int place = 0;
#pragma unroll
    for (int i = 1; i < PLACES; ++i) {
        const bool more = window[i] > most;
        most = more ? window[i] : most;
        place = more ? i : place;
    }
    const float value = most + bias;
    return {value <= 0.0f ? 0.0f : value, value > 0.0f ? static_cast<unsigned char>(place) : NO_CHOICE};
}

// Output that pools: the four outputs of a pooling window are four rows of a thread tile.
template <class Element = float>
struct PoolStore {
    Element* out;
    unsigned char* choice;
    const float* bias;
    int rows, columns;

    __device__ int start(int column) const { return column; }
    __device__ void operator()(int row, int column, const float (*values)[QUAD]) const {
        if (row >= rows) return;
        const size_t cell = static_cast<size_t>(row / PLACES) * columns + column;
        for (int j = 0; j < QUAD && column + j < columns; ++j) {
            const float window[PLACES] = {values[0][j], values[1][j], values[2][j], values[3][j]};
            const Pooled pooled = pool(window, bias[column + j]);
            const float result[1] = {pooled.value};
            store_vector(out + cell + j, result);
            choice[cell + j] = pooled.choice;
        }
    }
};
static_assert(PLACES == QUAD);
