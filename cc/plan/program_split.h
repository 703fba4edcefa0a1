// A program in two: its first steps for one image, and the rest for the whole batch.
//
// With a large batch each thread takes images of its own through the first steps, where a picture's tensors are large
// and the filters few: what one step writes, the next finds in the thread's caches, and nobody waits for anybody. The
// later steps have more filters than pixels, so there all images go through a step together.
#ifndef DWSCONV_PLAN_PROGRAM_SPLIT_H_
#define DWSCONV_PLAN_PROGRAM_SPLIT_H_

#include <cstdint>
#include <vector>

#include "cc/core/program.h"
#include "cc/core/program_infer.h"

namespace dwsconv {

struct ProgramSplit {
  Program first, rest;  // `first` has all inputs of the program, with a batch of 1
  // Of each output of `first`: the output of the program that it is a part of, or -1 for one that `rest` alone reads.
  std::vector<int> first_outputs;
  // Of each input of `rest`: where it comes from.
  struct Source {
    bool first;  // an output of `first`, or else an input of the program
    int index;
  };
  std::vector<Source> rest_inputs;
  std::vector<int> rest_outputs;  // of each output of `rest`: that of the program
};

// Whether images had better go through some of the steps one at a time; then fills *split. All sizes are known.
bool SplitProgram(const Program& program, const InferredProgram& inferred, int64_t l2_bytes, int threads,
                  ProgramSplit* split);

}  // namespace dwsconv

#endif  // DWSCONV_PLAN_PROGRAM_SPLIT_H_
