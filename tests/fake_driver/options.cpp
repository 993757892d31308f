// Parsing of options, and the log.
#include "options.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>

#include "api.h"
#include "driver.h"

namespace fake {

Options options;

namespace {

constexpr size_t kLogLines = 1 << 16;

std::mutex log_mutex;
// Never destroyed, because a thread may still run when the process ends.
auto& lines = *new std::deque<std::string>;
size_t dropped = 0;
FILE* log_file = nullptr;

void add_line(const std::string& line) {
    std::lock_guard lock(log_mutex);
    if (log_file) {
        fprintf(log_file, "%s\n", line.c_str());
        fflush(log_file);
    }
    lines.push_back(line);
    if (lines.size() > kLogLines) {
        lines.pop_front();
        dropped++;
    }
}

std::string formatted(const char* format, va_list arguments) {
    char text[1024];
    vsnprintf(text, sizeof text, format, arguments);
    return text;
}

bool number(const std::string& text, uint64_t& value) {
    char* end = nullptr;
    value = strtoull(text.c_str(), &end, 0);
    return !text.empty() && text[0] != '-' && *end == 0;
}

bool schedule(const std::string& text, Schedule& value) {
    if (text == "forward") value = {Order::forward, 0};
    else if (text == "reversed") value = {Order::reversed, 0};
    else if (text.rfind("random:", 0) == 0 && number(text.substr(7), value.seed)) value.order = Order::random;
    else return false;
    return true;
}

bool choice(const std::string& text, const char* no, const char* yes, bool& value) {
    value = text == yes;
    return value || text == no;
}

bool open_log(const std::string& path) {
    std::lock_guard lock(log_mutex);
    if (log_file) fclose(log_file);
    log_file = path.empty() ? nullptr : fopen(path.c_str(), "a");
    return log_file || path.empty();
}

template <class T>
bool count(const std::string& text, T& value) {
    uint64_t n;
    if (!number(text, n) || n > uint64_t(std::numeric_limits<T>::max())) return false;
    value = T(n);
    return true;
}

bool set_one(const std::string& key, const std::string& value) {
    if (key == "reset") {
        options = {};
        reset_driver();
        return value.empty();
    }
    if (key == "threads") return schedule(value, options.threads);
    if (key == "blocks") return schedule(value, options.blocks);
    if (key == "cp_async") return choice(value, "issue", "wait", options.copies_late);
    if (key == "stores") return choice(value, "now", "late", options.stores_late);
    if (key == "guard") return choice(value, "begin", "end", options.guard_end);
    if (key == "memory") return count(value, options.memory);
    if (key == "fail_alloc") return count(value, options.fail_alloc);
    if (key == "fail_launch") return count(value, options.fail_launch);
    if (key == "devices") return count(value, options.devices) && options.devices <= kMaxDevices;
    if (key == "driver") return count(value, options.driver);
    if (key == "capability") return sscanf(value.c_str(), "%d.%d", &options.major, &options.minor) == 2;
    if (key == "shared") return count(value, options.shared) && options.shared <= kSharedOptIn;
    if (key == "workers") return count(value, options.workers);
    if (key == "log") return open_log(value);
    return false;
}

}  // namespace

std::string set_options(const char* text) {
    std::string rest = text;
    while (!rest.empty()) {
        size_t end = rest.find(';');
        std::string pair = rest.substr(0, end);
        rest = end == std::string::npos ? "" : rest.substr(end + 1);
        if (pair.empty()) continue;
        size_t equals = pair.find('=');
        std::string value = equals == std::string::npos ? "" : pair.substr(equals + 1);
        if (!set_one(pair.substr(0, equals), value)) return "not an option of the fake driver: " + pair;
    }
    return "";
}

std::string format(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::string line = formatted(format, arguments);
    va_end(arguments);
    return line;
}

void log(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    add_line(formatted(format, arguments));
    va_end(arguments);
}

void report(const std::string& line) {
    fprintf(stderr, "fake CUDA: %s\n", line.c_str());
    add_line(line);
}

// FAKE_CUDA is parsed when the library is loaded, and an error in it ends the process: it must not look like a passed
// test.
static const bool environment_read = [] {
    const char* text = getenv("FAKE_CUDA");
    std::string wrong = text ? set_options(text) : "";
    if (!wrong.empty()) {
        fprintf(stderr, "FAKE_CUDA: %s\n", wrong.c_str());
        abort();
    }
    return true;
}();

}  // namespace fake

// Sets options at run time; returns null or an error message.
API const char* fake_cuda_set(const char* text) {
    static thread_local std::string wrong;
    std::lock_guard lock(fake::driver_mutex);
    wrong = fake::set_options(text);
    return wrong.empty() ? nullptr : wrong.c_str();
}

// Lines of the log since the last call, each ended by a newline. The text lives until the next call of the same thread.
API const char* fake_cuda_log() {
    static thread_local std::string text;
    std::lock_guard lock(fake::log_mutex);
    text.clear();
    if (fake::dropped) text = fake::format("(%zu lines dropped)\n", fake::dropped);
    for (const std::string& line : fake::lines) text += line + "\n";
    fake::lines.clear();
    fake::dropped = 0;
    return text.c_str();
}
