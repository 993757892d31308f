// State of the driver, and the beginning and the end of its calls.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "api.h"
#include "grid.h"
#include "options.h"

namespace fake {

constexpr int kMaxDevices = 16;

// Lock of every call: a call that submits work returns when the work is done.
extern std::recursive_mutex driver_mutex;

// Clears errors and unfinished captures; handles and memory stay.
void reset_driver();

// Primary context of a device, the only one it can have.
struct Context {
    int device = 0;
    int retained = 0;
    unsigned flags = 0;
    // The error of failed work is returned by the next call that waits for it, and by every call after that.
    CUresult unreported = CUDA_SUCCESS, error = CUDA_SUCCESS;
};
Context* current_context();

// One unit of a stream's work: a launch, a memset or a copy, with copies of its arguments.
struct Node {
    enum class Kind { kernel, copy, set } kind;
    CUdeviceptr to = 0, from = 0;
    size_t bytes = 0;  // of a copy or a memset
    unsigned value = 0, width = 0;  // of a memset: the value, and its size in bytes
    Launch launch{};
    std::vector<std::vector<unsigned char>> arguments{};
};

struct Graph {
    std::vector<Node> nodes;
};
struct GraphExec {
    std::vector<Node> nodes;
};

struct Stream {
    Context* context;
    bool blocking;  // true: the legacy stream waits for it
    bool legacy = false;
    bool capturing = false, invalidated = false;
    int mode = 0;
    std::thread::id owner{};
    Graph graph{};
};
constexpr int kGlobal = 0, kThreadLocal = 1, kRelaxed = 2;  // modes of a capture

// Null if there is no such stream.
Stream* find_stream(CUstream handle);
void destroy_streams(Context& context);
// Invalidates the captures that a call that waits or allocates is not compatible with; true if there were any.
bool break_captures();
// Invalidates the captures that work in the legacy stream is not compatible with; true if there were any.
bool break_captures_of_blocking_streams();

enum class Needs {
    nothing,
    driver,   // cuInit
    context,  // cuInit, and a current context without an error
    quiet,    // as `context`; the call is not in the log
    outside,  // as `context`; no capture may be active
};

// A call of the driver: takes the lock, checks the preconditions, and writes a line to the log.
class Call {
public:
    Call(Needs needs, const std::string& line);
    // True if the call ends here, with `refusal`.
    bool refused() const { return refusal_ != CUDA_SUCCESS; }
    CUresult refusal() { return end(refusal_, why_); }
    // Ends the call.
    CUresult end(CUresult result = CUDA_SUCCESS, const std::string& why = "");
    // Ends a call that waited for all work.
    CUresult end_waiting();
    // Submits work to a stream, and ends the call.
    CUresult submit(CUstream stream, Node&& node);
    Context& context() { return *context_; }

private:
    std::lock_guard<std::recursive_mutex> lock_;
    Context* context_;
    std::string line_, why_;
    bool quiet_;
    CUresult refusal_ = CUDA_SUCCESS;
};

#define ENTER(needs, ...)                              \
    fake::Call call(fake::Needs::needs, fake::format(__VA_ARGS__)); \
    if (call.refused()) return call.refusal()

// Does the work of a node, unless earlier work has failed.
void perform(Context& context, Node& node);

const char* error_name(CUresult error);

}  // namespace fake
