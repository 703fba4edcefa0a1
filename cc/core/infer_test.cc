// What Infer says of chains whose sizes are known, partly known, and wrong.
#include "cc/core/infer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace dwsconv {
namespace {

constexpr int64_t U = kUnknown;
using Sizes = std::vector<int64_t>;

Request Layer(Shape input, Shape depthwise, Shape pointwise) {
  Request request;
  request.input = input;
  request.depthwise_filter = depthwise;
  request.pointwise_filter = pointwise;
  return request;
}

std::string Wrong(const Request& request) {
  Chain chain;
  return Infer(request, &chain);
}

Sizes Output(const Request& request) {
  Chain chain;
  const std::string error = Infer(request, &chain);
  EXPECT_EQ(error, "");
  return OutputShape(chain);
}

TEST(Infer, KnownSizes) {
  Request request = Layer({2, 9, 8, 3}, {3, 3, 3, 2}, {1, 1, 6, 5});
  EXPECT_EQ(Output(request), Sizes({2, 9, 8, 5}));
  request.strides = {2, 3};
  EXPECT_EQ(Output(request), Sizes({2, 5, 3, 5}));
  request.padding = "VALID";
  EXPECT_EQ(Output(request), Sizes({2, 4, 2, 5}));
  request.padding = "EXPLICIT";
  request.explicit_paddings = {0, 0, 1, 2, 3, 0, 0, 0};
  EXPECT_EQ(Output(request), Sizes({2, 5, 3, 5}));
  request = Layer({2, 3, 9, 8}, {3, 3, 3, 2}, {1, 1, 6, 5});
  request.data_format = "NCHW";
  EXPECT_EQ(Output(request), Sizes({2, 5, 9, 8}));
}

TEST(Infer, OddPaddingGoesBehind) {
  Chain chain;
  ASSERT_EQ(Infer(Layer({1, 8, 7, 1}, {4, 2, 1, 1}, {1, 1, 1, 1}), &chain), "");
  EXPECT_EQ(chain.pad_top, 1);   // of 3
  EXPECT_EQ(chain.pad_left, 0);  // of 1
}

TEST(Infer, Stages) {
  Request block = Layer({2, 9, 8, 4}, {3, 3, 6, 2}, {1, 1, 12, 5});
  block.expand_filter = Shape{1, 1, 4, 6};
  block.expand_bias = Shape{6};
  block.gate = Shape{2, 12};
  Chain chain;
  ASSERT_EQ(Infer(block, &chain), "");
  EXPECT_EQ(chain.E, 4);
  EXPECT_EQ(chain.C, 6);
  EXPECT_EQ(chain.CM(), 12);
  EXPECT_TRUE(chain.float_between());
  EXPECT_EQ(Flops(chain), 2 * 2 * 72 * (4 * 6 + 12 * 9 + 12 * 5));
  block.pointwise_filter.reset();
  block.residual = Shape{2, 9, 8, 12};
  EXPECT_EQ(Output(block), Sizes({2, 9, 8, 12}));

  Request dense;
  dense.input = {2, 9, 8, 3};
  dense.pointwise_filter = Shape{3, 3, 3, 7};
  dense.strides = {2, 2};
  ASSERT_EQ(Infer(dense, &chain), "");
  EXPECT_EQ(OutputShape(chain), Sizes({2, 5, 4, 7}));
  EXPECT_EQ(Flops(chain), 2 * 2 * 20 * 27 * 7);
  dense.groups = 3;
  EXPECT_EQ(
      Wrong(dense),
      "pointwise_filter must be [R,S,C/groups,K] without depthwise_filter, with C = 3 as the channels of input, C "
      "and K multiples of groups = 3 and no axis of size 0, but its shape is [3,3,3,7]");
  dense.pointwise_filter = Shape{3, 3, 1, 6};
  ASSERT_EQ(Infer(dense, &chain), "");
  EXPECT_EQ(chain.C, 3);
  EXPECT_EQ(OutputShape(chain), Sizes({2, 5, 4, 6}));
  EXPECT_EQ(Flops(chain), 2 * 2 * 20 * 9 * 6);
  dense.normalize = true;
  EXPECT_EQ(Wrong(dense), "groups must be 1 but for a dense convolution alone, without scale and normalize; given 3");
  dense.normalize = false;
  dense.groups = 1;
  dense.pointwise_filter = Shape{3, 3, 3, 7};
  dense.gate = Shape{2, 3};
  EXPECT_EQ(Wrong(dense).substr(0, 48), "scale must not be given with a dense convolution");
}

TEST(Infer, WhatIsUnknownStaysSo) {
  EXPECT_EQ(Output(Layer({U, U, 8, 3}, {3, 3, 3, 2}, {1, 1, 6, 5})), Sizes({U, U, 8, 5}));
  EXPECT_EQ(Output(Layer(Shape(), Shape(), Shape())), Sizes({U, U, U, U}));
  Request valid = Layer({2, 9, 8, 3}, {U, 3, 3, 2}, {1, 1, 6, 5});
  EXPECT_EQ(Output(valid), Sizes({2, 9, 8, 5}));  // SAME needs no filter size
  valid.padding = "VALID";
  EXPECT_EQ(Output(valid), Sizes({2, U, 6, 5}));
}

TEST(Infer, OneTensorTellsOfAnother) {
  Chain chain;
  ASSERT_EQ(Infer(Layer({2, 9, 8, U}, {3, 3, 3, U}, {1, 1, 6, U}), &chain), "");
  EXPECT_EQ(chain.C, 3);
  EXPECT_EQ(chain.M, 2);
  Request request = Layer(Shape(), {3, 3, 3, U}, {1, 1, U, U});
  request.bias = Shape{5};
  request.residual = Shape{2, 9, U, U};
  EXPECT_EQ(Output(request), Sizes({2, 9, U, 5}));
  EXPECT_NE(Wrong(Layer({U, U, U, 4}, {3, 3, U, U}, {1, 1, 6, U})), "");  // 6 is no multiple of 4
}

TEST(Infer, NamesWhatIsWrong) {
  EXPECT_EQ(Wrong(Layer({9, 8, 3}, {3, 3, 3, 2}, {1, 1, 6, 5})),
            "input must have rank 4 ([N,H,W,C]), but its shape is [9,8,3]");
  EXPECT_EQ(Wrong(Layer({U, U, U, 4}, {3, 3, 3, 2}, {1, 1, 6, 5})),
            "depthwise_filter must be [R,S,C,M] with C = 4 as the channels of input (shape [?,?,?,4], data_format "
            "NHWC), but its shape is [3,3,3,2]");
  Request request = Layer({1, 2, 9, 3}, {3, 3, 3, 2}, {1, 1, 6, 5});
  request.padding = "VALID";
  EXPECT_EQ(Wrong(request).substr(0, 61), "depthwise_filter is larger than the input along the height: i");
  request.padding = "SAME";
  request.bias = Shape{4};
  EXPECT_EQ(Wrong(request), "bias must have shape [K] = [5], but its shape is [4]");
  request.bias.reset();
  request.activation.word = "relu7";
  EXPECT_EQ(Wrong(request).substr(0, 30), "activation must be one of none");
}

TEST(Infer, SizesPast64Bits) {
  const int64_t large = int64_t{1} << 40;
  EXPECT_EQ(Wrong(Layer({large, large, 1, 1}, {1, 1, 1, 1}, {1, 1, 1, 1})),
            "input is too large: the size of shape [" + std::to_string(large) + "," + std::to_string(large) +
                ",1,1] is past 64 bits");
  EXPECT_NE(Wrong(Layer({1, 1, 1, large}, {1, 1, large, large}, {1, 1, 1, 1})), "");
  Request request = Layer({1, large, 1, 1}, {2, 1, 1, 1}, {1, 1, 1, 1});
  request.dilations = {int64_t{1} << 62, 1};
  EXPECT_EQ(Wrong(request), "");  // a window of 2^62 rows is one that SAME pads
  request.strides = {1, 1};
  request.dilations = {std::numeric_limits<int64_t>::max(), 1};
  EXPECT_NE(Wrong(request), "");
  Chain chain;
  ASSERT_EQ(Infer(Layer({1 << 20, 1 << 10, 1 << 10, 1}, {3, 3, 1, 1}, {1, 1, 1, 1 << 20}), &chain), "");
  EXPECT_EQ(Flops(chain), int64_t{2} * (int64_t{1} << 40) * (9 + (1 << 20)));
}

}  // namespace
}  // namespace dwsconv
