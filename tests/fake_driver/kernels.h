// Registration of kernels. Every kernel file includes this header, so it must be small.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

namespace fake {

struct Kernel {
    const char* name;
    const char* file;
    unsigned max_threads;  // from __launch_bounds__; 0 without
    void (*call)(void** arguments);
    const unsigned* sizes;  // sizes of the arguments in bytes
    size_t arguments;
    unsigned max_dynamic = 48 * 1024;  // bytes of dynamic shared memory; cuFuncSetAttribute raises it
    Kernel* next = nullptr;
};

// The list of all kernels.
extern Kernel* kernels;

// The first number in __launch_bounds__(...).
constexpr unsigned bound(unsigned threads = 0, unsigned = 0, unsigned = 0) { return threads; }

// Calls a kernel with arguments as the driver passes them: one pointer each.
template <auto kernel>
struct Trampoline;
template <class... A, void (*kernel)(A...)>
struct Trampoline<kernel> {
    static_assert((std::is_trivially_copyable_v<A> && ...), "an argument of a kernel is plain data");

    static constexpr size_t count = sizeof...(A);
    static constexpr unsigned sizes[count + 1] = {unsigned(sizeof(A))..., 0};

    template <size_t... i>
    static void unpack([[maybe_unused]] void** arguments, std::index_sequence<i...>) {
        kernel(*static_cast<std::remove_cv_t<A>*>(arguments[i])...);
    }
    static void call(void** arguments) { unpack(arguments, std::index_sequence_for<A...>()); }
};

// Adds a kernel to the list when the library is loaded.
template <auto kernel>
struct Registered {
    using Called = Trampoline<kernel>;
    Kernel entry;
    Registered(const char* name, const char* file, unsigned max_threads)
        : entry{name, file, max_threads, Called::call, Called::sizes, Called::count} {
        entry.next = kernels;
        kernels = &entry;
    }
};

}  // namespace fake
