// Streams, events, captures, graphs. Work is done when it is submitted, so streams and events need no queues, but they
// keep the rules of the real driver.
#include <chrono>
#include <memory>
#include <set>

#include "driver.h"

namespace fake {

struct Event {
    std::chrono::steady_clock::time_point time{};
    bool recorded = false;
    Stream* captured = nullptr;  // capture of its last record
};

namespace {

// Never destroyed, because a thread may still run when the process ends.
auto& streams = *new std::set<std::unique_ptr<Stream>>;
auto& events = *new std::set<std::unique_ptr<Event>>;
auto& graphs = *new std::set<std::unique_ptr<Graph>>;
auto& execs = *new std::set<std::unique_ptr<GraphExec>>;

template <class T>
T* adopt(std::set<std::unique_ptr<T>>& owned, T&& value) {
    return owned.insert(std::make_unique<T>(std::move(value))).first->get();
}

// Position of a handle, or the end.
template <class T>
typename std::set<std::unique_ptr<T>>::iterator find(std::set<std::unique_ptr<T>>& owned, T* handle) {
    auto it = owned.begin();
    while (it != owned.end() && it->get() != handle) ++it;
    return it;
}

template <class T>
bool known(std::set<std::unique_ptr<T>>& owned, T* handle) {
    return find(owned, handle) != owned.end();
}

}  // namespace

Stream* find_stream(CUstream handle) {
    static Stream legacy{nullptr, true, true};
    constexpr uintptr_t kPerThread = 2;
    if (reinterpret_cast<uintptr_t>(handle) <= kPerThread) return &legacy;
    return known(streams, handle) ? handle : nullptr;
}

void destroy_streams(Context& context) {
    for (auto it = streams.begin(); it != streams.end();) it = (*it)->context == &context ? streams.erase(it) : ++it;
}

bool break_captures() {
    bool any = false;
    for (auto& stream : streams) {
        bool concerned =
            stream->mode == kGlobal || (stream->mode == kThreadLocal && stream->owner == std::this_thread::get_id());
        if (stream->capturing && concerned) any = stream->invalidated = true;
    }
    return any;
}

bool break_captures_of_blocking_streams() {
    bool any = false;
    for (auto& stream : streams)
        if (stream->capturing && stream->blocking) any = stream->invalidated = true;
    return any;
}

}  // namespace fake

using namespace fake;

namespace {

// Stream of a call that waits for it or queries it; it must not be captured.
CUresult free_stream(CUstream handle) {
    Stream* stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (!stream->capturing) return CUDA_SUCCESS;
    stream->invalidated = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult free_event(CUevent event) {
    if (!known(events, event)) return CUDA_ERROR_INVALID_HANDLE;
    if (!event->captured) return CUDA_SUCCESS;
    event->captured->invalidated = true;
    return CUDA_ERROR_CAPTURED_EVENT;
}

}  // namespace

API CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
    ENTER(context, "cuStreamCreate");
    constexpr unsigned kNonBlocking = 1;
    *stream = adopt(streams, Stream{&call.context(), !(flags & kNonBlocking)});
    return call.end();
}

API CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

API CUresult cuStreamDestroy_v2(CUstream stream) {
    ENTER(context, "cuStreamDestroy");
    auto it = find(streams, stream);
    if (it == streams.end()) return call.end(CUDA_ERROR_INVALID_HANDLE);
    for (auto& event : events)
        if (event->captured == stream) event->captured = nullptr;
    streams.erase(it);
    return call.end();
}

API CUresult cuStreamSynchronize(CUstream stream) {
    ENTER(context, "cuStreamSynchronize");
    if (CUresult wrong = free_stream(stream)) return call.end(wrong);
    return call.end_waiting();
}

API CUresult cuStreamQuery(CUstream stream) {
    ENTER(context, "cuStreamQuery");
    if (CUresult wrong = free_stream(stream)) return call.end(wrong);
    return call.end_waiting();
}

API CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
    ENTER(context, "cuStreamWaitEvent");
    Stream* stream = find_stream(handle);
    if (!stream || !known(events, event)) return call.end(CUDA_ERROR_INVALID_HANDLE);
    if (stream->invalidated) return call.end(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    if (event->captured == (stream->capturing ? stream : nullptr)) return call.end();
    if (!stream->capturing) return call.end(CUDA_ERROR_NOT_SUPPORTED, "one stream a capture");
    stream->invalidated = true;
    return call.end(CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
}

API CUresult cuEventCreate(CUevent* event, unsigned) {
    ENTER(context, "cuEventCreate");
    *event = adopt(events, Event{});
    return call.end();
}

API CUresult cuEventDestroy_v2(CUevent event) {
    ENTER(context, "cuEventDestroy");
    auto it = find(events, event);
    if (it == events.end()) return call.end(CUDA_ERROR_INVALID_HANDLE);
    events.erase(it);
    return call.end();
}

API CUresult cuEventRecord(CUevent event, CUstream handle) {
    ENTER(context, "cuEventRecord");
    Stream* stream = find_stream(handle);
    if (!stream || !known(events, event)) return call.end(CUDA_ERROR_INVALID_HANDLE);
    if (stream->invalidated) return call.end(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    event->captured = stream->capturing ? stream : nullptr;
    event->recorded = !stream->capturing;
    event->time = std::chrono::steady_clock::now();
    return call.end();
}

API CUresult cuEventQuery(CUevent event) {
    ENTER(context, "cuEventQuery");
    if (CUresult wrong = free_event(event)) return call.end(wrong);
    return call.end_waiting();
}

API CUresult cuEventSynchronize(CUevent event) {
    ENTER(context, "cuEventSynchronize");
    if (CUresult wrong = free_event(event)) return call.end(wrong);
    return call.end_waiting();
}

API CUresult cuEventElapsedTime(float* milliseconds, CUevent from, CUevent to) {
    ENTER(context, "cuEventElapsedTime");
    for (CUevent event : {from, to}) {
        if (CUresult wrong = free_event(event)) return call.end(wrong);
        if (!event->recorded) return call.end(CUDA_ERROR_INVALID_HANDLE, "never recorded");
    }
    *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
    return call.end();
}

API CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent from, CUevent to) {
    return cuEventElapsedTime(milliseconds, from, to);
}

API CUresult cuStreamBeginCapture_v2(CUstream handle, int mode) {
    ENTER(context, "cuStreamBeginCapture");
    Stream* stream = find_stream(handle);
    if (!stream) return call.end(CUDA_ERROR_INVALID_HANDLE);
    if (stream->legacy) return call.end(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the legacy stream cannot be captured");
    if (stream->capturing) return call.end(CUDA_ERROR_ILLEGAL_STATE, "it is being captured");
    if (mode < kGlobal || mode > kRelaxed) return call.end(CUDA_ERROR_INVALID_VALUE, "no such mode");
    stream->capturing = true;
    stream->invalidated = false;
    stream->mode = mode;
    stream->owner = std::this_thread::get_id();
    stream->graph = {};
    return call.end();
}

API CUresult cuStreamEndCapture(CUstream handle, CUgraph* graph) {
    ENTER(context, "cuStreamEndCapture");
    *graph = nullptr;
    Stream* stream = find_stream(handle);
    if (!stream) return call.end(CUDA_ERROR_INVALID_HANDLE);
    if (!stream->capturing) return call.end(CUDA_ERROR_ILLEGAL_STATE, "it is not being captured");
    if (stream->mode != kRelaxed && stream->owner != std::this_thread::get_id())
        return call.end(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    stream->capturing = false;
    for (auto& event : events)
        if (event->captured == stream) event->captured = nullptr;
    if (std::exchange(stream->invalidated, false)) return call.end(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    *graph = adopt(graphs, std::exchange(stream->graph, {}));
    return call.end(CUDA_SUCCESS, format(" %zu nodes", (*graph)->nodes.size()));
}

API CUresult cuStreamIsCapturing(CUstream handle, int* status) {
    ENTER(quiet, "cuStreamIsCapturing");
    Stream* stream = find_stream(handle);
    if (!stream) return call.end(CUDA_ERROR_INVALID_HANDLE);
    *status = stream->invalidated ? 2 : stream->capturing;
    return call.end();
}

API CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* count) {
    ENTER(context, "cuGraphGetNodes");
    if (!known(graphs, graph)) return call.end(CUDA_ERROR_INVALID_HANDLE);
    for (size_t i = 0; nodes && i < *count; i++) nodes[i] = i < graph->nodes.size() ? &graph->nodes[i] : nullptr;
    if (!nodes || *count > graph->nodes.size()) *count = graph->nodes.size();
    return call.end();
}

API CUresult cuGraphDestroy(CUgraph graph) {
    ENTER(context, "cuGraphDestroy");
    auto it = find(graphs, graph);
    if (it == graphs.end()) return call.end(CUDA_ERROR_INVALID_HANDLE);
    graphs.erase(it);
    return call.end();
}

API CUresult cuGraphInstantiateWithFlags(CUgraphExec* exec, CUgraph graph, unsigned long long) {
    ENTER(outside, "cuGraphInstantiate");
    if (!known(graphs, graph)) return call.end(CUDA_ERROR_INVALID_HANDLE);
    *exec = adopt(execs, GraphExec{graph->nodes});
    return call.end(CUDA_SUCCESS, format(" %zu nodes", graph->nodes.size()));
}

API CUresult cuGraphInstantiate_v2(CUgraphExec* exec, CUgraph graph, CUgraphNode*, char*, size_t) {
    return cuGraphInstantiateWithFlags(exec, graph, 0);
}

API CUresult cuGraphUpload(CUgraphExec exec, CUstream stream) {
    ENTER(context, "cuGraphUpload");
    return call.end(known(execs, exec) && find_stream(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}

API CUresult cuGraphLaunch(CUgraphExec exec, CUstream handle) {
    if (!exec) return CUDA_ERROR_INVALID_HANDLE;
    ENTER(context, "cuGraphLaunch");
    Stream* stream = find_stream(handle);
    if (!stream || !known(execs, exec)) return call.end(CUDA_ERROR_INVALID_HANDLE);
    if (stream->capturing) return call.end(CUDA_ERROR_NOT_SUPPORTED, "a graph within a graph");
    for (Node& node : exec->nodes) perform(call.context(), node);
    return call.end(CUDA_SUCCESS, format(" %zu nodes", exec->nodes.size()));
}

API CUresult cuGraphExecDestroy(CUgraphExec exec) {
    ENTER(context, "cuGraphExecDestroy");
    auto it = find(execs, exec);
    if (it == execs.end()) return call.end(CUDA_ERROR_INVALID_HANDLE);
    execs.erase(it);
    return call.end();
}
