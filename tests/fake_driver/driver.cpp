// State of the driver, the beginning and the end of a call, the work of a stream.
#include "driver.h"

#include <cstring>

#include "memory.h"

namespace fake {

std::recursive_mutex driver_mutex;

extern bool initialized;

const char* error_name(CUresult error) {
    switch (error) {
#define X(code, name, meaning) \
    case name: return #name;
        FAKE_ERRORS(X)
#undef X
    }
    return nullptr;
}

Call::Call(Needs needs, const std::string& line)
    : lock_(driver_mutex), context_(current_context()), line_(line), quiet_(needs == Needs::quiet) {
    if (needs == Needs::nothing) return;
    if (!initialized) {
        refusal_ = CUDA_ERROR_NOT_INITIALIZED;
    } else if (needs == Needs::driver) {
        return;
    } else if (!context_ || context_->retained == 0) {
        refusal_ = CUDA_ERROR_INVALID_CONTEXT;
    } else if (context_->error != CUDA_SUCCESS) {
        refusal_ = context_->error;
        why_ = "the context has failed before";
    } else if (needs == Needs::outside && break_captures()) {
        refusal_ = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        why_ = "not while a stream is being captured";
    }
}

CUresult Call::end(CUresult result, const std::string& why) {
    if (result != CUDA_SUCCESS) {
        log("%s -> %s%s%s%s", line_.c_str(), error_name(result), why.empty() ? "" : " (", why.c_str(),
            why.empty() ? "" : ")");
    } else if (!quiet_) {
        log("%s%s", line_.c_str(), why.c_str());
    }
    return result;
}

CUresult Call::end_waiting() {
    context_->error = context_->unreported;
    return end(context_->error, context_->error ? "of work submitted before" : "");
}

CUresult Call::submit(CUstream handle, Node&& node) {
    Stream* stream = find_stream(handle);
    if (!stream) return end(CUDA_ERROR_INVALID_HANDLE, "no such stream");
    if (stream->invalidated) return end(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    if (stream->capturing) {
        stream->graph.nodes.push_back(std::move(node));
        return end(CUDA_SUCCESS, " (captured)");
    }
    if (stream->legacy && break_captures_of_blocking_streams()) return end(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    perform(*context_, node);
    return end();
}

void perform(Context& context, Node& node) {
    if (context.unreported != CUDA_SUCCESS) return;
    auto* to = reinterpret_cast<unsigned char*>(node.to);
    if (node.kind == Node::Kind::copy) {
        memmove(to, reinterpret_cast<const void*>(node.from), node.bytes);
    } else if (node.kind == Node::Kind::set) {
        for (size_t i = 0; i < node.bytes; i += node.width) memcpy(to + i, &node.value, node.width);
    } else {
        std::vector<void*> arguments;
        for (auto& argument : node.arguments) arguments.push_back(argument.data());
        Launch launch = node.launch;
        launch.arguments = arguments.data();
        std::optional<Failure> failure;
        if (options.fail_launch > 0 && --options.fail_launch == 0) {
            failure = Failure{CUDA_ERROR_LAUNCH_FAILED,
                              format("kernel %s: fails as fail_launch asks for", launch.kernel->name)};
        } else {
            failure = run_grid(launch);
        }
        if (!failure) return;
        context.unreported = failure->error;
        report(format("%s: %s", error_name(failure->error), failure->text.c_str()));
    }
}

}  // namespace fake

API CUresult cuGetErrorName(CUresult error, const char** name) {
    *name = fake::error_name(error);
    return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

API CUresult cuGetErrorString(CUresult error, const char** text) {
    *text = nullptr;
    switch (error) {
#define X(code, name, meaning) \
    case name: *text = meaning; break;
        FAKE_ERRORS(X)
#undef X
    }
    return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
