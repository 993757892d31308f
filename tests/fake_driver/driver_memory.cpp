// Device memory, page-locked host memory, copies, memsets.
#include <cstdlib>

#include "driver.h"
#include "memory.h"

using namespace fake;

namespace {

CUresult allocated(Call& call, CUdeviceptr* start, size_t bytes) {
    if (bytes == 0) return call.end(CUDA_ERROR_INVALID_VALUE, "no bytes");
    *start = allocate(bytes, call.context().device);
    return *start ? call.end() : call.end(CUDA_ERROR_OUT_OF_MEMORY);
}

const char* const kBeyond = "beyond the allocation";

Node copy_node(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    Node node{Node::Kind::copy};
    node.to = to;
    node.from = from;
    node.bytes = bytes;
    return node;
}

CUresult copy_device(Call& call, CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    if (!inside(to, bytes) || !inside(from, bytes)) return call.end(CUDA_ERROR_INVALID_VALUE, kBeyond);
    return call.submit(stream, copy_node(to, from, bytes));
}

// A copy between device and host does not belong in a captured step. The driver refuses one with pageable memory; the
// fake driver refuses all.
CUresult copy_host(Call& call, CUdeviceptr device, CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream handle) {
    if (!inside(device, bytes)) return call.end(CUDA_ERROR_INVALID_VALUE, kBeyond);
    Stream* stream = find_stream(handle);
    if (stream && stream->capturing) {
        stream->invalidated = true;
        return call.end(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a copy of host memory while its stream is captured");
    }
    return call.submit(handle, copy_node(to, from, bytes));
}

CUresult copy_host_now(Call& call, CUdeviceptr device, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    if (!inside(device, bytes)) return call.end(CUDA_ERROR_INVALID_VALUE, kBeyond);
    Node node = copy_node(to, from, bytes);
    perform(call.context(), node);
    return call.end_waiting();
}

CUresult set(Call& call, CUdeviceptr to, unsigned value, unsigned width, size_t count, CUstream stream) {
    if (!inside(to, count * width)) return call.end(CUDA_ERROR_INVALID_VALUE, kBeyond);
    if (to % width != 0) return call.end(CUDA_ERROR_INVALID_VALUE, "misaligned");
    Node node{Node::Kind::set};
    node.to = to;
    node.bytes = count * width;
    node.value = value;
    node.width = width;
    return call.submit(stream, std::move(node));
}

CUdeviceptr address(const void* host) { return reinterpret_cast<CUdeviceptr>(host); }

}  // namespace

API CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER(context, "cuMemGetInfo");
    size_t in_use = used(call.context().device);
    *total = options.memory;
    *free = options.memory > in_use ? options.memory - in_use : 0;
    return call.end();
}

API CUresult cuMemAlloc_v2(CUdeviceptr* start, size_t bytes) {
    ENTER(outside, "cuMemAlloc %zu", bytes);
    return allocated(call, start, bytes);
}

API CUresult cuMemAllocAsync(CUdeviceptr* start, size_t bytes, CUstream) {
    ENTER(outside, "cuMemAllocAsync %zu", bytes);
    return allocated(call, start, bytes);
}

API CUresult cuMemFree_v2(CUdeviceptr start) {
    ENTER(outside, "cuMemFree");
    if (start && !release(start)) return call.end(CUDA_ERROR_INVALID_VALUE, "nothing was allocated there");
    return call.end_waiting();
}

API CUresult cuMemFreeAsync(CUdeviceptr start, CUstream) {
    ENTER(outside, "cuMemFreeAsync");
    if (start && !release(start)) return call.end(CUDA_ERROR_INVALID_VALUE, "nothing was allocated there");
    return call.end();
}

API CUresult cuMemHostAlloc(void** start, size_t bytes, unsigned) {
    ENTER(outside, "cuMemHostAlloc %zu", bytes);
    constexpr size_t kPage = 4096;
    *start = aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
    return call.end(*start ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

API CUresult cuMemAllocHost_v2(void** start, size_t bytes) { return cuMemHostAlloc(start, bytes, 0); }

API CUresult cuMemFreeHost(void* start) {
    ENTER(outside, "cuMemFreeHost");
    free(start);
    return call.end();
}

API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    ENTER(outside, "cuMemcpyHtoD %zu", bytes);
    return copy_host_now(call, to, to, address(from), bytes);
}

API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    ENTER(outside, "cuMemcpyDtoH %zu", bytes);
    return copy_host_now(call, from, address(to), from, bytes);
}

API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    ENTER(outside, "cuMemcpyDtoD %zu", bytes);
    return copy_device(call, to, from, bytes, nullptr);
}

API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    ENTER(context, "cuMemcpyHtoDAsync %zu", bytes);
    return copy_host(call, to, to, address(from), bytes, stream);
}

API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER(context, "cuMemcpyDtoHAsync %zu", bytes);
    return copy_host(call, from, address(to), from, bytes, stream);
}

API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER(context, "cuMemcpyDtoDAsync %zu", bytes);
    return copy_device(call, to, from, bytes, stream);
}

API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    ENTER(outside, "cuMemsetD8 %zu", count);
    return set(call, to, value, 1, count, nullptr);
}

API CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
    ENTER(outside, "cuMemsetD32 %zu", count);
    return set(call, to, value, 4, count, nullptr);
}

API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
    ENTER(context, "cuMemsetD8Async %zu", count);
    return set(call, to, value, 1, count, stream);
}

API CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
    ENTER(context, "cuMemsetD32Async %zu", count);
    return set(call, to, value, 4, count, stream);
}
