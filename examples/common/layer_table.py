"""Layers of networks and of the two studies: the one table that the programs measure and the tests look at."""

from __future__ import annotations

from typing import Any, NamedTuple


class Layer(NamedTuple):
    """A depthwise-separable layer without biases.

    Attributes:
        N, H, W, C: its input. K: output channels.
        kernel_size: rows and columns of the depthwise filter. strides: along both axes.
    """

    N: int
    H: int
    W: int
    C: int
    K: int
    kernel_size: int = 3
    strides: int = 1

    def problem(self, padding: str = "SAME") -> Any:
        """As an `analysis.Problem`; raises ValueError for a window larger than its padded input."""
        from tf_dwsconv.analysis import Problem

        return Problem(*self[:5], R=self.kernel_size, S=self.kernel_size, stride=self.strides, padding=padding.upper())


def shapes_of(problem: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Of a problem's input and filters, as `native.plan` takes them."""
    p = problem
    return (p.N, p.H, p.W, p.C), (p.R, p.S, p.C, p.M), (1, 1, p.CM, p.K)


# Rows and columns, C, K, strides.
_MOBILENET_V1 = (
    (112, 32, 64, 1),
    (112, 64, 128, 2),
    (56, 128, 128, 1),
    (56, 128, 256, 2),
    (28, 256, 256, 1),
    (28, 256, 512, 2),
    (14, 512, 512, 1),
    (14, 512, 1024, 2),
    (7, 1024, 1024, 1),
)
# What speed is measured on, by name; the number behind _n is the batch.
LAYERS = {
    f"mobilenetv1_{size}x{c}-{k}_n{n}": Layer(n, size, size, c, k, 3, strides)
    for n in (1, 8)
    for size, c, k, strides in _MOBILENET_V1
}
LAYERS |= {
    "study_224x128-128_n1": Layer(1, 224, 224, 128, 128),
    "xception_19x728-728_n8": Layer(8, 19, 19, 728, 728),
    "report_512x3-64_n8": Layer(8, 512, 512, 3, 64),
    "mobilenetv2_56x144-24_n8": Layer(8, 56, 56, 144, 24),
    "efficientnet_14x480-112_k5_n8": Layer(8, 14, 14, 480, 112, 5),
    "convnext_56x96-384_k7_n4": Layer(4, 56, 56, 96, 384, 7),
    "convnext_14x384-1536_k7_n4": Layer(4, 14, 14, 384, 1536, 7),
}
# Layers that are looked at together. The report does not name its layer's output channels.
SUITES = {
    "all": tuple(LAYERS.values()),
    "training": tuple(
        layer
        for name, layer in LAYERS.items()
        if name.startswith(("efficientnet", "convnext_14"))
        or (name.startswith("mobilenetv1") and layer.N == 8 and (layer.strides == 1 or layer.H == 112))
    ),
    "study": (LAYERS["study_224x128-128_n1"], LAYERS["study_224x128-128_n1"]._replace(N=16)),
    "mobilenet": tuple(layer for name, layer in LAYERS.items() if name.startswith("mobilenetv1_") and layer.N == 1),
    "report": (Layer(128, 512, 512, 3, 3), LAYERS["report_512x3-64_n8"]._replace(N=16)),
    "convnext": (
        LAYERS["convnext_56x96-384_k7_n4"],
        Layer(4, 28, 28, 192, 768, 7),
        LAYERS["convnext_14x384-1536_k7_n4"],
    ),
    "communication": (
        LAYERS["mobilenetv1_112x32-64_n1"],
        LAYERS["mobilenetv1_56x128-128_n8"],
        LAYERS["mobilenetv1_14x512-512_n8"],
        LAYERS["convnext_56x96-384_k7_n4"],
        LAYERS["report_512x3-64_n8"]._replace(N=1),
    ),
}
