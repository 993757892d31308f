// Modules, functions, launches. The content of a module's image is ignored: every module has all kernels that were
// compiled into this library.
#include <algorithm>
#include <cstring>

#include "driver.h"

namespace fake {

struct Module {};

Kernel* kernels = nullptr;

}  // namespace fake

using namespace fake;

namespace {

bool known(CUfunction kernel) {
    for (Kernel* k = kernels; k; k = k->next)
        if (k == kernel) return true;
    return false;
}

std::string text_of(dim3 block) {
    return block.y == 1 && block.z == 1 ? format("%u", block.x) : format("%u,%u,%u", block.x, block.y, block.z);
}

// Reason for which the driver refuses a launch; empty if it does not.
std::string refusal(const Launch& launch) {
    const Kernel& kernel = *launch.kernel;
    auto [x, y, z] = launch.block;
    size_t threads = size_t(x) * y * z;
    if (!threads) return "an empty block";
    if (!launch.grid.x || !launch.grid.y || !launch.grid.z) return "an empty grid";
    if (x > kMaxThreads || y > kMaxThreads || z > kMaxBlockZ || threads > kMaxThreads)
        return format("a block has at most %u threads, %u of them in z", kMaxThreads, kMaxBlockZ);
    if (kernel.max_threads && threads > kernel.max_threads)
        return format("__launch_bounds__ of %u threads", kernel.max_threads);
    if (launch.grid.x > kMaxGridX || launch.grid.y > kMaxGridYZ || launch.grid.z > kMaxGridYZ)
        return format("a grid has at most %u blocks in y and z", kMaxGridYZ);
    if (launch.dynamic > kernel.max_dynamic)
        return format("cuFuncSetAttribute has allowed %u bytes of dynamic shared memory", kernel.max_dynamic);
    if (kernel.arguments && !launch.arguments) return "no arguments";
    return "";
}

CUresult launch_kernel(const char* what, const Launch& launch, CUstream stream) {
    bool found = known(launch.kernel);
    ENTER(context, "%s %s grid %u,%u,%u block %s shared %u", what, found ? launch.kernel->name : "?", launch.grid.x,
          launch.grid.y, launch.grid.z, text_of(launch.block).c_str(), launch.dynamic);
    if (!found) return call.end(CUDA_ERROR_INVALID_HANDLE, "no such kernel");
    std::string why = refusal(launch);
    if (!why.empty()) return call.end(CUDA_ERROR_INVALID_VALUE, why);
    Node node{Node::Kind::kernel};
    node.launch = launch;
    for (size_t i = 0; i < launch.kernel->arguments; i++) {
        auto* argument = static_cast<unsigned char*>(launch.arguments[i]);
        if (!argument) return call.end(CUDA_ERROR_INVALID_VALUE, format("argument %zu is missing", i));
        node.arguments.emplace_back(argument, argument + launch.kernel->sizes[i]);
    }
    return call.submit(stream, std::move(node));
}

}  // namespace

API CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    ENTER(outside, "cuModuleLoadData");
    constexpr int kLeastCapability = 80;
    if (!image) return call.end(CUDA_ERROR_INVALID_VALUE, "no image");
    if (options.major * 10 + options.minor < kLeastCapability) return call.end(CUDA_ERROR_NO_BINARY_FOR_GPU);
    *module = new Module;
    return call.end();
}

API CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, int*, void**) {
    return cuModuleLoadData(module, image);
}

API CUresult cuModuleUnload(CUmodule module) {
    ENTER(outside, "cuModuleUnload");
    delete module;
    return call.end();
}

API CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char* name) {
    ENTER(context, "cuModuleGetFunction %s", name);
    for (Kernel* kernel = kernels; kernel; kernel = kernel->next) {
        if (strcmp(kernel->name, name) != 0) continue;
        *function = kernel;
        return call.end();
    }
    return call.end(CUDA_ERROR_NOT_FOUND);
}

API CUresult cuFuncGetAttribute(int* value, int attribute, CUfunction function) {
    ENTER(quiet, "cuFuncGetAttribute");
    if (!known(function)) return call.end(CUDA_ERROR_INVALID_HANDLE);
    switch (attribute) {
        case 0: *value = int(function->max_threads ? function->max_threads : kMaxThreads); break;
        case 4: *value = 32; break;                                    // registers: unknown
        case 5: *value = 80; break;                                    // PTX version
        case 6: *value = options.major * 10 + options.minor; break;    // binary version
        case 8: *value = int(function->max_dynamic); break;
        default: *value = 0;
    }
    return call.end();
}

API CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value) {
    ENTER(context, "cuFuncSetAttribute %s %d %d", known(function) ? function->name : "?", attribute, value);
    if (!known(function)) return call.end(CUDA_ERROR_INVALID_HANDLE);
    constexpr int kMaxDynamicShared = 8;
    if (attribute != kMaxDynamicShared) return call.end();
    if (value < 0 || size_t(value) > options.shared) return call.end(CUDA_ERROR_INVALID_VALUE);
    function->max_dynamic = unsigned(value);
    return call.end();
}

API CUresult cuFuncSetCacheConfig(CUfunction function, int) {
    ENTER(context, "cuFuncSetCacheConfig");
    return call.end(known(function) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}

API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int threads,
                                                         size_t dynamic) {
    ENTER(quiet, "cuOccupancyMaxActiveBlocksPerMultiprocessor");
    if (!known(function)) return call.end(CUDA_ERROR_INVALID_HANDLE);
    if (threads <= 0) return call.end(CUDA_ERROR_INVALID_VALUE);
    size_t most = std::min<size_t>(kBlocksMultiprocessor, size_t(kThreadsMultiprocessor / threads));
    if (dynamic) most = std::min(most, kSharedMultiprocessor / dynamic);
    *blocks = int(most);
    return call.end();
}

API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction function, int threads,
                                                                  size_t dynamic, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, dynamic);
}

API CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                            unsigned block_y, unsigned block_z, unsigned dynamic, CUstream stream, void** arguments,
                            void** extra) {
    if (extra) return CUDA_ERROR_NOT_SUPPORTED;
    Launch launch{function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, dynamic, arguments};
    return launch_kernel("cuLaunchKernel", launch, stream);
}

API CUresult cuLaunchCooperativeKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                       CUstream, void**) {
    ENTER(context, "cuLaunchCooperativeKernel");
    return call.end(CUDA_ERROR_NOT_SUPPORTED);
}

// One line a kernel: name, file, threads of __launch_bounds__ (0: none), bytes of each argument.
API const char* fake_cuda_kernels() {
    static const std::string text = [] {
        std::string lines;
        for (const Kernel* kernel = kernels; kernel; kernel = kernel->next) {
            lines += format("%s %s %u", kernel->name, kernel->file, kernel->max_threads);
            for (size_t i = 0; i < kernel->arguments; i++) lines += format(" %u", kernel->sizes[i]);
            lines += "\n";
        }
        return lines;
    }();
    return text.c_str();
}
