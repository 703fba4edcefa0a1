// The file of a program (docs/program.md): a safetensors file whose metadata holds the text. Nothing in it is trusted.
#ifndef DWSCONV_CORE_PROGRAM_FILE_H_
#define DWSCONV_CORE_PROGRAM_FILE_H_

#include <cstdint>
#include <string>

#include "cc/core/aligned_buffer.h"
#include "cc/core/program.h"

namespace dwsconv {

// A program with its flat weights: Program::weight_count elements of its dtype.
struct LoadedProgram {
  Program program;
  AlignedBuffer<char> weights;
};

// Reads a file and checks all of it. Fills *loaded and returns "", or returns what is wrong. Never throws. It reads
// instead of mapping: a mapped file that somebody cuts short ends the process.
std::string ReadProgramFile(const std::string& path, LoadedProgram* loaded);

// The weights' places in a file's header, against the program: a part of ReadProgramFile, for its tests. `header` is
// the JSON text, `bytes` what follows it.
std::string ReadProgramHeader(const std::string& header, int64_t bytes, Program* program);

// "" where the text and the weights make a program that InferProgram finds no fault with.
std::string CheckLoaded(const Program& program);

}  // namespace dwsconv

#endif  // DWSCONV_CORE_PROGRAM_FILE_H_
