// The part of the CUDA driver's interface that the fake answers: handles, error codes, constants.
#pragma once

#include <cstddef>
#include <cstdint>

// code, name, meaning
#define FAKE_ERRORS(X) \
    X(0, CUDA_SUCCESS, "no error") \
    X(1, CUDA_ERROR_INVALID_VALUE, "invalid argument") \
    X(2, CUDA_ERROR_OUT_OF_MEMORY, "out of memory") \
    X(3, CUDA_ERROR_NOT_INITIALIZED, "initialization error") \
    X(100, CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected") \
    X(101, CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal") \
    X(201, CUDA_ERROR_INVALID_CONTEXT, "invalid device context") \
    X(209, CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for execution") \
    X(400, CUDA_ERROR_INVALID_HANDLE, "invalid resource handle") \
    X(401, CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state") \
    X(500, CUDA_ERROR_NOT_FOUND, "named symbol not found") \
    X(700, CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered") \
    X(701, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch") \
    X(719, CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure") \
    X(801, CUDA_ERROR_NOT_SUPPORTED, "operation not supported") \
    X(900, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when a stream is capturing") \
    X(901, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture failed before") \
    X(905, CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "dependency on work that is not captured") \
    X(906, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "the legacy stream would wait for a stream that is captured") \
    X(907, CUDA_ERROR_CAPTURED_EVENT, "operation not permitted on an event of a capture") \
    X(908, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "a capture must end in the thread that began it")

enum CUresult : int {
#define X(code, name, meaning) name = code,
    FAKE_ERRORS(X)
#undef X
};

using CUdevice = int;
using CUdeviceptr = unsigned long long;
struct CUuuid { char bytes[16]; };

namespace fake {
struct Context;
struct Module;
struct Kernel;
struct Stream;
struct Event;
struct Graph;
struct GraphExec;
struct Node;
}  // namespace fake

using CUcontext = fake::Context*;
using CUmodule = fake::Module*;
using CUfunction = fake::Kernel*;
using CUstream = fake::Stream*;
using CUevent = fake::Event*;
using CUgraph = fake::Graph*;
using CUgraphExec = fake::GraphExec*;
using CUgraphNode = fake::Node*;

#define API extern "C" __attribute__((visibility("default")))

// Properties of the simulated device: an H100.
namespace fake {
constexpr unsigned kMaxThreads = 1024;            // of a block
constexpr unsigned kMaxBlockZ = 64;
constexpr unsigned kMaxGridYZ = 65535;
constexpr unsigned kMaxGridX = 2147483647;
constexpr unsigned kWarp = 32;
constexpr size_t kSharedDefault = 48 * 1024;      // bytes of a block, without an attribute of the kernel
constexpr size_t kSharedOptIn = 227 * 1024;       // bytes of a block, with the attribute
constexpr size_t kSharedMultiprocessor = 228 * 1024;
constexpr int kMultiprocessors = 132;
constexpr int kThreadsMultiprocessor = 2048;
constexpr int kBlocksMultiprocessor = 32;
}  // namespace fake
