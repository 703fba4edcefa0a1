"""Right and wrong uses of the public names, for type checkers alone (test_types.py): a wrong line ends in `# wrong`."""

import numpy as np

import tf_dwsconv
from tf_dwsconv import analysis, native, tune

x = np.ones((1, 8, 8, 4), np.float32)
depthwise, pointwise = np.ones((3, 3, 4, 1), np.float32), np.ones((1, 1, 4, 6), np.float32)

layer = tf_dwsconv.DepthwiseSepConv2D(6, 3, strides=(1, 1), padding="same", activation="relu6", name="first")
tf_dwsconv.DepthwiseSepConv2D("six", 3)  # wrong
tf_dwsconv.DepthwiseSepConv2D(6, 3, depthwise_use_bias="yes")  # wrong
tf_dwsconv.DepthwiseSepConv2D(6)  # wrong

tf_dwsconv.FusedConvBlock(16, 3, expand_filters=96, residual=True)
tf_dwsconv.FusedConvBlock(16, 3, expand_filters="96")  # wrong
tf_dwsconv.FusedConvBlock(16, 3, epsilon="small")  # wrong

tf_dwsconv.FusedDepthwiseConv2D(3, strides=2, padding="same", use_bias=False)
tf_dwsconv.FusedDepthwiseConv2D("three")  # wrong
tf_dwsconv.FusedBatchNormalization(momentum=0.9, activation="relu6")

tf_dwsconv.FusedNetwork("{}", name="all")
tf_dwsconv.FusedNetwork(program=3)  # wrong

tf_dwsconv.depthwise_sep_conv2d(x, depthwise, pointwise, strides=2, padding="VALID")
tf_dwsconv.depthwise_sep_conv2d(x, depthwise, pointwise, stride=2)  # wrong
tf_dwsconv.depthwise_sep_conv2d(x, depthwise, pointwise, strides="two")  # wrong
tf_dwsconv.depthwise_sep_conv2d(x, depthwise)  # wrong

fused = tf_dwsconv.convert(layer, training=False, verbose=True)
rows = tf_dwsconv.convert.report(fused)
pattern: str = rows[0].pattern
number: int = rows[0].pattern  # wrong
tf_dwsconv.convert(layer, train=True)  # wrong
tf_dwsconv.convert.reports(fused)  # wrong
tf_dwsconv.to_builtin(fused)
tf_dwsconv.to_builtin()  # wrong
graph_rows = tf_dwsconv.convert_saved_model("saved_model", "fused")
tf_dwsconv.convert_saved_model("saved_model")  # wrong
tf_dwsconv.save_network(fused, "network.safetensors")
tf_dwsconv.save_network(fused)  # wrong
network = native.Network("network.safetensors")
network(x, num_threads=1)
native.Network(3)  # wrong
network(x, threads=1)  # wrong

info = tf_dwsconv.build_info()
text: str = tf_dwsconv.build_info()  # wrong
nothing = tf_dwsconv.no_such_name  # wrong

y = native.depthwise_sep_conv2d(x, depthwise, pointwise, num_threads=1)
shape = y.shape
native.depthwise_sep_conv2d(x, depthwise, pointwise, num_threads="all")  # wrong
packed = native.Layer(depthwise, pointwise, strides=1)
z = packed(x, out=y, num_threads=1).shape
packed(x, threads=1)  # wrong
native.plan(x.shape, depthwise.shape, pointwise.shape)["threads"]
native.plan(1, depthwise.shape, pointwise.shape)  # wrong

problem = analysis.Problem(N=1, H=8, W=8, C=4, K=6)
analysis.Problem(N=1, H=8, W=8, C=4, L=6)  # wrong
cost = analysis.layer_cost(problem).flops
analysis.layer_cost("1x8x8x4")  # wrong
tune.tune([problem], seconds=0.1, write=False)
tune.tune([problem], seconds="long")  # wrong
