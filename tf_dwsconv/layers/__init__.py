"""The Keras layers: of a depthwise-separable convolution, its parts in training, a whole block, and a whole network."""

from tf_dwsconv.layers.batch_norm import FusedBatchNormalization
from tf_dwsconv.layers.block import FusedConvBlock
from tf_dwsconv.layers.depthwise import FusedDepthwiseConv2D
from tf_dwsconv.layers.network import FusedNetwork
from tf_dwsconv.layers.separable import DepthwiseSepConv2D

__all__ = ["DepthwiseSepConv2D", "FusedBatchNormalization", "FusedConvBlock", "FusedDepthwiseConv2D", "FusedNetwork"]
