// The text of a program (docs/program.md), read and printed. What it says is not checked here but for its form: that is
// for InferProgram.
#ifndef DWSCONV_CORE_PROGRAM_TEXT_H_
#define DWSCONV_CORE_PROGRAM_TEXT_H_

#include <cstddef>
#include <string>

#include "cc/core/program.h"

namespace dwsconv {

constexpr size_t kMostTextBytes = size_t{16} << 20;

// Fills *program and returns "", or returns what is wrong with the text. Never throws.
std::string ParseProgram(const std::string& text, Program* program);

// A text that ParseProgram reads as the same program, a line for each step.
std::string PrintProgram(const Program& program);

// "float32", "bfloat16", "float16".
const char* DTypeWord(DType dtype);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_PROGRAM_TEXT_H_
