// A launch, and its failure.
#pragma once

#include <optional>
#include <string>

#include "api.h"
#include "kernels.h"
#include "vectors.h"

namespace fake {

struct Launch {
    Kernel* kernel;
    dim3 grid, block;
    unsigned dynamic;  // bytes of dynamic shared memory
    void** arguments;
};

struct Failure {
    CUresult error;
    std::string text;
};

// Runs all blocks, and returns when they have ended.
std::optional<Failure> run_grid(const Launch& launch);

}  // namespace fake
