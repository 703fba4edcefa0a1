"""The rules of the conversion, and the order in which a search tries them; `_search.py` says what a rule is."""

from tf_dwsconv.convert.rules import (
    batch_norm,
    branches,
    dense,
    depthwise,
    exact_depthwise,
    exact_halves,
    exact_norm,
    exact_separable,
    expanded,
    pointwise,
    rows,
    scale,
    sequence,
)

# Each line is a way along the graph.
INFERENCE = (
    (sequence, branches, expanded, pointwise, dense, depthwise),
    (batch_norm,),
    (scale,),
    (rows,),
)
TRAINING = ((exact_separable, exact_halves), (exact_norm, exact_depthwise))
