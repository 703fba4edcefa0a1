"""Layers of networks in use, with the shapes that speed is measured on: (name, N, H = W, C, K, kernel, stride)."""

from tf_dwsconv.analysis import Problem

_MOBILENET_V1 = [
    (112, 32, 64, 1),
    (112, 64, 128, 2),
    (56, 128, 128, 1),
    (56, 128, 256, 2),
    (28, 256, 256, 1),
    (28, 256, 512, 2),
    (14, 512, 512, 1),
    (14, 512, 1024, 2),
    (7, 1024, 1024, 1),
]
LAYERS = [(f"mobilenetv1_{h}x{c}-{k}_n{n}", n, h, c, k, 3, s) for n in (1, 8) for h, c, k, s in _MOBILENET_V1] + [
    ("study_224x128-128_n1", 1, 224, 128, 128, 3, 1),
    ("xception_19x728-728_n8", 8, 19, 728, 728, 3, 1),
    ("report_512x3-64_n8", 8, 512, 3, 64, 3, 1),
    ("mobilenetv2_56x144-24_n8", 8, 56, 144, 24, 3, 1),
    ("efficientnet_14x480-112_k5_n8", 8, 14, 480, 112, 5, 1),
    ("convnext_56x96-384_k7_n4", 4, 56, 96, 384, 7, 1),
    ("convnext_14x384-1536_k7_n4", 4, 14, 384, 1536, 7, 1),
]


def problem_of(layer):
    """The layer as an `analysis.Problem`."""
    _, n, size, c, k, kernel, stride = layer
    return Problem(N=n, H=size, W=size, C=c, K=k, R=kernel, S=kernel, stride=stride)


def shapes_of(problem):
    """Of its input and its filters, as `native.plan` takes them."""
    p = problem
    return (p.N, p.H, p.W, p.C), (p.R, p.S, p.C, p.M), (1, 1, p.CM, p.K)
