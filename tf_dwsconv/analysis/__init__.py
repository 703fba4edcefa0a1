"""What depthwise-separable (DWS) convolutions cost, what they must move, and how to tile them.

Pure Python on NumPy, with SciPy for the linear programs (`pip install 'tf_dwsconv[analysis]'`); TensorFlow is not
imported. `python -m tf_dwsconv.analysis --help` prints tables; docs/analysis.md has the formulas and their sources.
"""

from tf_dwsconv.analysis.costs import (
    Cost,
    Machine,
    StudyRow,
    compulsory_bytes,
    layer_cost,
    roofline_seconds,
    study_table,
)
from tf_dwsconv.analysis.dense import (
    ConvBlocking,
    ConvBound,
    conv_blocking,
    conv_lower_bound,
    lifted_nest,
    precision_constant,
    words_of,
)
from tf_dwsconv.analysis.fused import FusedTiling, FusedTraffic, dws_lower_bound, fused_tiling, fused_traffic
from tf_dwsconv.analysis.layers import depthwise_nest, fused_nest, pointwise_nest
from tf_dwsconv.analysis.nests import Array, LoopNest, Tiling, Window, splits
from tf_dwsconv.analysis.plot import plot_roofline
from tf_dwsconv.analysis.problem import Problem, itemsize
from tf_dwsconv.analysis.report import LayerReport, ModelSummary, format_table, report_layer, report_table, summary

__all__ = [
    "Array", "ConvBlocking", "ConvBound", "Cost", "FusedTiling", "FusedTraffic", "LayerReport", "LoopNest", "Machine",
    "ModelSummary", "Problem", "StudyRow", "Tiling", "Window", "compulsory_bytes", "conv_blocking",
    "conv_lower_bound", "depthwise_nest", "dws_lower_bound", "format_table", "fused_nest", "fused_tiling",
    "fused_traffic", "itemsize", "layer_cost", "lifted_nest", "plot_roofline", "pointwise_nest", "precision_constant",
    "report_layer", "report_table", "roofline_seconds", "splits", "study_table", "summary", "words_of",
]  # fmt: skip
