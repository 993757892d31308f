// Initialisation, devices, contexts.
#include <cstring>

#include "driver.h"
#include "memory.h"

namespace fake {

bool initialized = false;

namespace {

Context contexts[kMaxDevices];
thread_local std::vector<Context*> stack;  // contexts of the calling thread; the last one is current

// Values of the CUdevice_attribute that programs base decisions on.
int attribute(int which) {
    switch (which) {
        case 1: return kMaxThreads;            // MAX_THREADS_PER_BLOCK
        case 2: case 3: return kMaxThreads;    // MAX_BLOCK_DIM_X, _Y
        case 4: return kMaxBlockZ;             // MAX_BLOCK_DIM_Z
        case 5: return kMaxGridX;              // MAX_GRID_DIM_X
        case 6: case 7: return kMaxGridYZ;     // MAX_GRID_DIM_Y, _Z
        case 8: return kSharedDefault;         // MAX_SHARED_MEMORY_PER_BLOCK
        case 9: return 65536;                  // TOTAL_CONSTANT_MEMORY
        case 10: return kWarp;                 // WARP_SIZE
        case 12: return 65536;                 // MAX_REGISTERS_PER_BLOCK
        case 13: return 1980000;               // CLOCK_RATE, kHz
        case 16: return kMultiprocessors;      // MULTIPROCESSOR_COUNT
        case 19: return 1;                     // CAN_MAP_HOST_MEMORY
        case 31: return 1;                     // CONCURRENT_KERNELS
        case 32: return 1;                     // ECC_ENABLED
        case 36: return 2619000;               // MEMORY_CLOCK_RATE, kHz
        case 37: return 5120;                  // GLOBAL_MEMORY_BUS_WIDTH, bits
        case 38: return 50 << 20;              // L2_CACHE_SIZE
        case 39: return kThreadsMultiprocessor;  // MAX_THREADS_PER_MULTIPROCESSOR
        case 40: return 3;                     // ASYNC_ENGINE_COUNT
        case 41: return 1;                     // UNIFIED_ADDRESSING
        case 75: return options.major;         // COMPUTE_CAPABILITY_MAJOR
        case 76: return options.minor;         // COMPUTE_CAPABILITY_MINOR
        case 78: return 1;                     // STREAM_PRIORITIES_SUPPORTED
        case 81: return kSharedMultiprocessor;  // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        case 82: return 65536;                 // MAX_REGISTERS_PER_MULTIPROCESSOR
        case 90: return 1;                     // COMPUTE_PREEMPTION_SUPPORTED
        case 97: return int(options.shared);          // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        case 106: return kBlocksMultiprocessor;  // MAX_BLOCKS_PER_MULTIPROCESSOR
        case 111: return 1024;                 // RESERVED_SHARED_MEMORY_PER_BLOCK
        case 115: return 1;                    // MEMORY_POOLS_SUPPORTED
        default: return 0;
    }
}

bool exists(CUdevice device) { return device >= 0 && device < options.devices; }

void destroy(Context& context) {
    destroy_streams(context);
    release_all(context.device);
    context.error = context.unreported = CUDA_SUCCESS;
}

}  // namespace

Context* current_context() { return stack.empty() ? nullptr : stack.back(); }

void reset_driver() {
    for (Context& context : contexts) context.error = context.unreported = CUDA_SUCCESS;
}

}  // namespace fake

using namespace fake;

API CUresult cuInit(unsigned) {
    ENTER(nothing, "cuInit");
    if (options.devices == 0) return call.end(CUDA_ERROR_NO_DEVICE);
    for (int i = 0; i < kMaxDevices; i++) contexts[i].device = i;
    initialized = true;
    return call.end();
}

API CUresult cuDriverGetVersion(int* version) {
    ENTER(nothing, "cuDriverGetVersion");
    *version = options.driver;
    return call.end();
}

API CUresult cuDeviceGetCount(int* count) {
    ENTER(driver, "cuDeviceGetCount");
    *count = options.devices;
    return call.end();
}

API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    ENTER(driver, "cuDeviceGet %d", ordinal);
    if (!exists(ordinal)) return call.end(CUDA_ERROR_INVALID_DEVICE);
    *device = ordinal;
    return call.end();
}

API CUresult cuDeviceGetName(char* name, int bytes, CUdevice device) {
    ENTER(driver, "cuDeviceGetName %d", device);
    if (!exists(device)) return call.end(CUDA_ERROR_INVALID_DEVICE);
    snprintf(name, size_t(bytes), "fake NVIDIA H100");
    return call.end();
}

API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    ENTER(driver, "cuDeviceTotalMem %d", device);
    if (!exists(device)) return call.end(CUDA_ERROR_INVALID_DEVICE);
    *bytes = options.memory;
    return call.end();
}

API CUresult cuDeviceGetAttribute(int* value, int which, CUdevice device) {
    ENTER(driver, "cuDeviceGetAttribute %d of device %d", which, device);
    if (!exists(device)) return call.end(CUDA_ERROR_INVALID_DEVICE);
    *value = attribute(which);
    return call.end();
}

API CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
    ENTER(driver, "cuDeviceGetUuid %d", device);
    if (!exists(device)) return call.end(CUDA_ERROR_INVALID_DEVICE);
    *uuid = {"fake CUDA 00000"};
    uuid->bytes[14] = char('0' + device);
    return call.end();
}

API CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

API CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    ENTER(driver, "cuDevicePrimaryCtxRetain %d", device);
    if (!exists(device)) return call.end(CUDA_ERROR_INVALID_DEVICE);
    contexts[device].retained++;
    *context = &contexts[device];
    return call.end();
}

API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    ENTER(driver, "cuDevicePrimaryCtxRelease %d", device);
    if (device < 0 || device >= kMaxDevices || contexts[device].retained == 0)
        return call.end(CUDA_ERROR_INVALID_CONTEXT);
    if (--contexts[device].retained == 0) destroy(contexts[device]);
    return call.end();
}

API CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
    ENTER(driver, "cuDevicePrimaryCtxReset %d", device);
    if (!exists(device)) return call.end(CUDA_ERROR_INVALID_DEVICE);
    destroy(contexts[device]);
    return call.end();
}

API CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
    ENTER(driver, "cuDevicePrimaryCtxSetFlags %d", device);
    if (!exists(device)) return call.end(CUDA_ERROR_INVALID_DEVICE);
    contexts[device].flags = flags;
    return call.end();
}

API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
    ENTER(driver, "cuDevicePrimaryCtxGetState %d", device);
    if (!exists(device)) return call.end(CUDA_ERROR_INVALID_DEVICE);
    *flags = contexts[device].flags;
    *active = contexts[device].retained > 0;
    return call.end();
}

// The current context belongs to the calling thread. Programs ask for it before every call, so it is not logged.

API CUresult cuCtxGetCurrent(CUcontext* context) {
    *context = current_context();
    return initialized ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

API CUresult cuCtxSetCurrent(CUcontext context) {
    if (!initialized) return CUDA_ERROR_NOT_INITIALIZED;
    if (!fake::stack.empty()) fake::stack.pop_back();
    if (context) fake::stack.push_back(context);
    return CUDA_SUCCESS;
}

API CUresult cuCtxPushCurrent_v2(CUcontext context) {
    if (!initialized) return CUDA_ERROR_NOT_INITIALIZED;
    if (!context) return CUDA_ERROR_INVALID_CONTEXT;
    fake::stack.push_back(context);
    return CUDA_SUCCESS;
}

API CUresult cuCtxPopCurrent_v2(CUcontext* context) {
    if (fake::stack.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = fake::stack.back();
    fake::stack.pop_back();
    return CUDA_SUCCESS;
}

API CUresult cuCtxGetDevice(CUdevice* device) {
    ENTER(quiet, "cuCtxGetDevice");
    *device = call.context().device;
    return call.end();
}

API CUresult cuCtxSetFlags(unsigned flags) {
    ENTER(context, "cuCtxSetFlags %u", flags);
    call.context().flags = flags;
    return call.end();
}

API CUresult cuCtxSynchronize() {
    ENTER(outside, "cuCtxSynchronize");
    return call.end_waiting();
}
