"""The Keras layers: of a depthwise-separable convolution, and of a whole block."""

from tf_dwsconv.layers.block import FusedConvBlock
from tf_dwsconv.layers.separable import DepthwiseSepConv2D

__all__ = ["DepthwiseSepConv2D", "FusedConvBlock"]
