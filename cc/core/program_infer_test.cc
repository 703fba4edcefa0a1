// What InferProgram and the text's reader say of programs that are right, partly known, and wrong.
#include "cc/core/program_infer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cc/core/program_text.h"
#include "cc/core/testing_program.h"

namespace dwsconv {
namespace {

using Sizes = std::vector<int64_t>;

std::string Wrong(const std::string& text, const std::vector<Shape>& inputs = {}) {
  Program program;
  InferredProgram inferred;
  const std::string error = ParseProgram(text, &program);
  return error.empty() ? InferProgram(program, inputs, &inferred) : error;
}

// Both ways; what is wrong with what one change makes of the program.
std::string WrongWith(const std::string& from, const std::string& to) { return Wrong(Replaced(EveryOp(), from, to)); }

TEST(ProgramInfer, ShapesOfACall) {
  Program program;
  ASSERT_EQ(ParseProgram(EveryOp(), &program), "");
  InferredProgram inferred;
  ASSERT_EQ(InferProgram(program, {{2, 8, 8, 3}}, &inferred), "");
  const std::vector<Sizes> wanted = {
      {2, 8, 8, 3}, {2, 4, 4, 4}, {2, 1, 1, 4}, {2, 1, 1, 4}, {2, 4, 4, 4}, {2, 4, 4, 4},  {2, 6, 6, 4}, {2, 3, 3, 4},
      {2, 3, 3, 4}, {2, 6, 6, 4}, {2, 6, 6, 4}, {2, 6, 6, 8}, {2, 8},       {2, 2, 4},     {2, 2, 5},    {2, 2, 5},
      {2, 2, 5},    {2, 2, 5},    {2, 2, 5},    {2, 5, 4, 8}, {2, 4, 5, 8}, {2, 7, 15, 1}, {2, 2, 4},    {2, 2, 2}};
  EXPECT_EQ(inferred.shapes, wanted);
  EXPECT_EQ(inferred.outputs, std::vector<int>({18, 7, 21}));
  EXPECT_GT(CostOf(program, inferred, 0).flops, 2.0 * 2 * 16 * 27 * 4 - 1);
  EXPECT_EQ(CostOf(program, inferred, 9).bytes, 4.0 * 3 * 2 * 36 * 4);
  // What is cut off is not read.
  EXPECT_EQ(CostOf(program, inferred, 18).bytes, 4.0 * 2 * 2 * 20 * 8);
  EXPECT_EQ(CostOf(program, inferred, 19).bytes, 4.0 * 2 * 2 * 20 * 8);
  EXPECT_EQ(CostOf(program, inferred, 20).bytes, 4.0 * 2 * 2 * 7 * 15);
  EXPECT_EQ(CostOf(program, inferred, 22).flops, 2.0 * 2 * 2 * 2 * 4);
  EXPECT_EQ(CostOf(program, inferred, 22).bytes, 4.0 * 2 * (8 + 8 + 4));
}

TEST(ProgramInfer, ShapesOfAGraph) {
  Program program;
  ASSERT_EQ(ParseProgram(EveryOp(), &program), "");
  InferredProgram inferred;
  for (const std::vector<Shape>& inputs : {std::vector<Shape>{}, std::vector<Shape>{Shape()}}) {
    ASSERT_EQ(InferProgram(program, inputs, &inferred), "");
    EXPECT_EQ(inferred.shapes[11], Sizes({kUnknown, 6, 6, 8}));
    EXPECT_EQ(inferred.shapes[18], Sizes({kUnknown, 2, 5}));
    EXPECT_EQ(inferred.shapes[21], Sizes({kUnknown, 7, 15, 1}));
  }
  // With unknown rows and columns, too.
  ASSERT_EQ(ParseProgram(Replaced(EveryOp(), "[null, 8, 8, 3]", "[null, null, null, 3]"), &program), "");
  ASSERT_EQ(InferProgram(program, {}, &inferred), "");
  EXPECT_EQ(inferred.shapes[11], Sizes({kUnknown, kUnknown, kUnknown, 8}));
  EXPECT_EQ(inferred.shapes[18], Sizes({kUnknown, 2, 5}));
  EXPECT_EQ(inferred.shapes[21], Sizes({kUnknown, kUnknown, kUnknown, 1}));
}

TEST(ProgramInfer, AllOfAnAxisMayBeCutOff) {
  Program program;
  ASSERT_EQ(ParseProgram(Replaced(EveryOp(), "[[0, 0], [1, 0], [0, 2], [0, 0]]", "[[0, 0], [2, 4], [0, 2], [0, 0]]"),
                         &program),
            "");
  program.steps.resize(20);
  program.outputs.pop_back();
  InferredProgram inferred;
  ASSERT_EQ(InferProgram(program, {}, &inferred), "");
  EXPECT_EQ(inferred.shapes[20], Sizes({kUnknown, 4, 0, 8}));
}

TEST(ProgramInfer, ShapesOfAnotherCall) {
  EXPECT_EQ(Wrong(EveryOp(), {{2, 8, 9, 3}}), "input \"image\" must have shape [?,8,8,3], but its shape is [2,8,9,3]");
  EXPECT_EQ(Wrong(EveryOp(), {{8, 8, 3}}), "input \"image\" must have shape [?,8,8,3], but its shape is [8,8,3]");
  EXPECT_EQ(Wrong(EveryOp(), {{1, 8, 8, 3}, {1}}), "the program takes 1 inputs; given 2");
  EXPECT_EQ(Wrong(EveryOp(), {{0, 8, 8, 3}}), "");
}

TEST(ProgramText, PrintsWhatItReads) {
  Program program, again;
  ASSERT_EQ(ParseProgram(EveryOp(), &program), "");
  const std::string text = PrintProgram(program);
  ASSERT_EQ(ParseProgram(text, &again), "");
  EXPECT_EQ(PrintProgram(again), text);
  EXPECT_NE(text.find("\"max_value\":6.0"), std::string::npos);
  EXPECT_NE(text.find("\"shape\":[null,8,8,3]"), std::string::npos);
  EXPECT_EQ(again.steps.size(), 23u);
  EXPECT_TRUE(again.steps[22].transpose_y && !again.steps[22].transpose_x);
  EXPECT_EQ(again.steps[0].explicit_padding, Sizes({0, 1, 0, 1}));
}

TEST(ProgramInfer, SaysWhatIsWrong) {
  const struct {
    const char *from, *to, *wanted;
  } cases[] = {
      {"\"version\": 1", "\"version\": 2", "version must be 1; given 2"},
      {"\"tf_dwsconv.program\"", "\"onnx\"", "format must be \"tf_dwsconv.program\"; given \"onnx\""},
      {"\"float32\"", "\"float64\"", "dtype must be \"float32\", \"bfloat16\" or \"float16\"; given \"float64\""},
      {"[null, 8, 8, 3]", "[null, -8, 8, 3]", "input \"image\": shape must be a batch and sizes >= 0"},
      {"[null, 8, 8, 3]", "[null, 9007199254740992, 4503599627370496, 3]", "whose product fits"},
      {"[null, 8, 8, 3]", "[null, 8.5, 8, 3]", "shape of an input must be a whole number of at most 2^53; given 8.5"},
      {"\"tensor\": 7", "\"tensor\": 77", "output \"map\": tensor must be an input or what an earlier step writes"},
      {"\"count\": 400", "\"count\": 200", "weight \"shift\" must lie inside the weights, of 200 elements"},
      {"\"offset\": 108", "\"offset\": 107", "weights must not overlap; \"stem\" and \"bias\" do"},
      {"\"name\": \"gamma\"", "\"name\": \"beta\"", "names of weights must differ; \"beta\" is there twice"},
      {"\"strides\": [2, 2]", "\"strides\": [0, 1]", "step 0 'stem': strides must be 2 numbers (height, width)"},
      {"\"strides\": [2, 2]", "\"stride\": [2, 2]", "step 0 'stem': a chain must have no other keys than"},
      {"\"keepdims\": true", "\"keepdims\": 1", "step 1 'squeeze': keepdims must be true or false; given 1"},
      {"{\"word\": \"sigmoid\"}", "{\"word\": \"sine\"}", "step 2 'factors': activation must be one of none, relu"},
      {"{\"word\": \"sigmoid\"}", "{\"word\": \"prelu\"}", "step 2 'factors': weights.slopes must be given with prelu"},
      {"\"gate\": 3", "\"gate\": 1", "step 3 'block': gate must have shape [?,4] or [?,1,1,4], but its shape is"},
      {"\"residual\": 1", "\"residual\": 0", "step 3 'block': residual must have the output's shape [?,4,4,4]"},
      {"\"gamma\": 4", "\"gamma\": 0", "step 4 'norm': weights.gamma must have the size of x's last axis"},
      {"\"gamma\": 4", "\"gamma\": 9", "weights.gamma must be an index into weights.tensors, 0 to 8; given 9"},
      {"[[0, 0], [1, 1], [1, 1], [0, 0]]", "[[1, 0], [1, 1], [1, 1], [0, 0]]", "step 5 'pad': paddings must be a pair"},
      {"\"window\": [2, 2]", "\"window\": [7, 2]", "step 6 'pool': window is larger than the input along the height"},
      {"\"window\": [2, 2]", "\"window\": [2]", "step 6 'pool': window must be two numbers >= 1; given [2]"},
      {"\"padding\": \"same\"", "\"padding\": [[3, 0], [0, 0]]",
       "step 7 'smooth': padding must be less than the window"},
      {"\"method\": \"bilinear\"", "\"method\": \"cubic\"", "step 8 'up': method must be \"nearest\" or \"bilinear\""},
      {"\"scale\": [2, 2]", "\"scale\": [2, 2], \"size\": [9, 9]", "step 8 'up': one of scale and size must be given"},
      {"\"y\": 6", "\"y\": 1", "step 9 'difference': y must have sizes that broadcast with those of x, [?,6,6,4]"},
      {"\"y\": 6, \"output\": 10", "\"output\": 10", "step 9 'difference': y must be given"},
      {"\"axis\": 3", "\"axis\": 0", "step 10 'both': axis must be 1 to 3; given 0"},
      {"\"axis\": 3", "\"axis\": 3, \"axis\": 2", "a program must not have a key twice in an object; \"axis\" is"},
      {"\"xs\": [9, 10]", "\"xs\": [9, 8]", "step 10 'both': xs must have equal sizes but along axis 3"},
      {"\"x\": 11, \"output\": 12", "\"x\": 12, \"output\": 12",
       "step 11 'peaks': x must be an input or what an earlier step writes; given 12"},
      {"[2, -1]", "[3, -1]", "step 12 'halves': shape must hold the elements behind x's batch, [?,8]"},
      {"[2, -1]", "[2, -1], \"pictures\": [1]", "step 12 'halves': pictures must be two numbers >= 1; given [1]"},
      {"[2, -1]", "[2, -1], \"pictures\": [1, 3]", "pictures must share the elements of x, [?,8]; given [1,3]"},
      {"[2, -1]", "[3, -1], \"pictures\": [1, 2]", "step 12 'halves': shape must hold the elements behind x's batch"},
      {"[2, -1]", "[-1, -1]", "step 12 'halves': shape must have -1 once at most"},
      {"\"filter\": 6", "\"filter\": 0", "step 13 'logits': weights.filter must be [C,K]"},
      {"\"filter\": 6, \"bias\": 7}", "\"filter\": 6, \"bias\": 7}, \"residual\": 13",
       "step 13 'logits': residual must have the output's shape, [?,2,5]; given [?,2,4]"},
      {"\"output\": 16", "\"output\": 15", "step 15 'square': output must be a tensor that nothing else writes"},
      {"\"op\": \"softmax\"", "\"op\": \"sort\"", "step 17 'probabilities': op must be one of chain, dense"},
      {"\"x\": 17, \"output\": 18", "\"x\": 17, \"output\": 1048577", "output must be the number of a tensor"},
      {"\"croppings\": [[0, 0], [1, 0]", "\"croppings\": [[1, 0], [1, 0]",
       "step 18 'inner': croppings must be a pair >= 0"},
      {"\"croppings\": [[0, 0], [1, 0]", "\"croppings\": [[1, 0]", "step 18 'inner': croppings must be a pair >= 0"},
      {"\"croppings\": [[0, 0], [1, 0]", "\"croppings\": [[0, 0], [-1, 0]", "be a pair >= 0 for each of 4 axes"},
      {"\"croppings\": [[0, 0], [1, 0]", "\"croppings\": [[0, 0], [9007199254740992, 9007199254740992]",
       "step 18 'inner': croppings must take no more than x has, [?,6,6,8]"},
      {"\"croppings\": [[0, 0], [1, 0]", "\"croppings\": [[0, 0], [3, 4]", "croppings must take no more than x has"},
      {"\"croppings\": [[0, 0], [1, 0]", "\"paddings\": [[0, 0], [1, 0]", "a crop must have no other keys than"},
      {"[0, 2, 1, 3]", "[0, 2, 2, 3]",
       "step 19 'turned': axes must be the numbers 0 to 3 in any order, 0 first; given"},
      {"[0, 2, 1, 3]", "[2, 0, 1, 3]", "step 19 'turned': axes must be the numbers 0 to 3 in any order, 0 first"},
      {"[0, 2, 1, 3]", "[0, 2, 1]", "axes must be the numbers 0 to 3 in any order, 0 first; given [0,2,1]"},
      {"\"axes\": [0, 2, 1, 3]", "\"axes\": []", "step 19 'turned': axes must be the numbers 0 to 3"},
      {"[2, 4]", "[2, 3]", "step 20 'shuffled': block must divide the channels of x, [?,4,5,8], among its pixels"},
      {"[2, 4]", "[0, 4]", "step 20 'shuffled': block must be two numbers >= 1 whose product fits; given [0,4]"},
      {"[2, 4]", "[4503599627370496, 4503599627370496]", "block must be two numbers >= 1 whose product fits"},
      {"[[1, 0], [2, 3]]", "[[1, 0], [2, 19]]",
       "step 20 'shuffled': croppings must take no more than there is, blocks"},
      {"[[1, 0], [2, 3]]", "[[1, 0]]", "step 20 'shuffled': croppings must be [[top, bottom], [left, right]]"},
      {"[[1, 0], [2, 3]]", "[[1, 0], 2]", "step 20 'shuffled': croppings must be a list of whole numbers; given 2"},
      {"\"exponent\": 0.5", "\"exponent\": null", "step 21 'roots': exponent must be a number that float32 holds"},
      {"\"y\": 13, ", "", "step 22 'product': y must be given"},
      {"\"y\": 13", "\"y\": 12", "step 22 'product': y must agree with x, [?,2,4], in all axes but the last two"},
      {"\"x\": 22, \"y\": 13", "\"x\": 12, \"y\": 12", "step 22 'product': x must have rank 3 or more, [N,...,M,C]"},
      {"\"transpose_y\": true", "\"transpose_y\": false",
       "step 22 'product': y must have as many rows as x, [?,2,4], "},
      {"\"transpose_y\": true", "\"transpose_y\": 1", "step 22 'product': transpose_y must be true or false; given 1"},
      {"{\"word\": \"tanh\"}", "{\"word\": \"relu\", \"max_value\": 1e300}",
       "activation.max_value must be a number that"},
  };
  for (const auto& c : cases) {
    const std::string error = WrongWith(c.from, c.to);
    EXPECT_NE(error.find(c.wanted), std::string::npos) << c.from << " -> " << c.to << ": " << error;
  }
}

TEST(ProgramText, RefusesWhatIsNoProgram) {
  const std::string deep(1 << 16, '[');
  for (const std::string& text : {std::string(), std::string("{"), std::string("[]"), std::string("null"), deep,
                                  std::string("{\"format\": \"\xff\"}"), std::string("{\"steps\": 1e999}")}) {
    EXPECT_NE(Wrong(text), "") << text.substr(0, 20);
  }
  EXPECT_EQ(Wrong(deep + std::string(1 << 16, ']')), "a program must not be nested deeper than 16");
}

}  // namespace
}  // namespace dwsconv
