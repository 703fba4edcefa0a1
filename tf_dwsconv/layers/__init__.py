"""The Keras layers: of a depthwise-separable convolution, of a whole block, and of a whole network."""

from tf_dwsconv.layers.block import FusedConvBlock
from tf_dwsconv.layers.network import FusedNetwork
from tf_dwsconv.layers.separable import DepthwiseSepConv2D

__all__ = ["DepthwiseSepConv2D", "FusedConvBlock", "FusedNetwork"]
