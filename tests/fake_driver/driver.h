// The driver's state, and what every call of it begins and ends with.
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

// Held during every call: the work of a stream is done before the call that submits it returns.
extern std::recursive_mutex driver_mutex;

// Forgets errors and unfinished captures; handles and memory stay.
void reset_driver();

// A device's primary context, the only one that it can have.
struct Context {
    int device = 0;
    int retained = 0;
    unsigned flags = 0;
    // Work that failed is known to the next call that waits for it, and from then on to all.
    CUresult unreported = CUDA_SUCCESS, error = CUDA_SUCCESS;
};
Context* current_context();

// One piece of a stream's work: a launch, a memset or a copy, with copies of its arguments.
struct Node {
    enum class Kind { kernel, copy, set } kind;
    CUdeviceptr to = 0, from = 0;
    size_t bytes = 0;  // of a copy or a memset
    unsigned value = 0, width = 0;  // of a memset: what is written, and its size in bytes
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
    bool blocking;  // the legacy stream waits for it
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
// Breaks the captures in whose way a call that waits or allocates is; true if there were any.
bool break_captures();
// The same for work in the legacy stream.
bool break_captures_of_blocking_streams();

enum class Needs {
    nothing,
    driver,   // cuInit
    context,  // and a current context without an error
    quiet,    // a context; the log does not mention the call
    outside,  // a context, and no capture in the way
};

// A call of the driver: takes the lock, checks what the call needs, and writes its line into the log.
class Call {
public:
    Call(Needs needs, const std::string& line);
    // Whether the call ends here, with `refusal`.
    bool refused() const { return refusal_ != CUDA_SUCCESS; }
    CUresult refusal() { return end(refusal_, why_); }
    // Ends the call.
    CUresult end(CUresult result = CUDA_SUCCESS, const std::string& why = "");
    // Ends a call that has waited for all work.
    CUresult end_waiting();
    // Gives work to a stream, and ends the call.
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

// Does a node's work, unless earlier work has failed.
void perform(Context& context, Node& node);

const char* error_name(CUresult error);

}  // namespace fake
