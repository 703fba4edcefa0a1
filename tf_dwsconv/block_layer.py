"""`FusedConvBlock` under the name of the module that it was in, which pickles and programs know."""

from tf_dwsconv.layers import FusedConvBlock

__all__ = ["FusedConvBlock"]
