// Chooses the instruction set once, at run time.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace spikeconv {

// What this processor can run, best first; "portable" always comes last.
std::vector<const Kernels*> available_kernels();

// The set in use: the best one, or what `use_kernels` chose.
const Kernels& kernels();

// Use a set by name ("auto": the best); throws std::invalid_argument if this processor cannot run it.
void use_kernels(const std::string& name);

}  // namespace spikeconv
