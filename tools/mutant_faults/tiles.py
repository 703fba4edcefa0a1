"""Of the small tiles of the pointwise half, and of the strips of the depthwise half that reach over a row's edges."""

from mutant_faults._fault import Fault

_EDGES = ("native/test_row_edges.py",)
_SMALL = ("block/test_small_tiles.py",)

FAULTS = (
    Fault(
        "small tiles of a line begin where its larger groups do",
        "cc/cpu/kernels/pointwise_body.h",
        "z + in * a.z_stride",
        "z",
        _SMALL,
        isa="avx512",
    ),
    Fault(
        "no small tiles of a last half vector",
        "cc/cpu/kernels/pointwise_body.h",
        "(k_end - k_whole) / (kV / 2)",
        "(k_end - k_whole) / kV",
        _SMALL,
        isa="avx512",
    ),
    Fault(
        "small tiles store all of a half vector",
        "cc/cpu/kernels/pointwise_tile_body.h",
        "kHalf && v == kVectors - 1",
        "kHalf && v == kVectors",
        _SMALL,
        isa="avx512",
    ),
    Fault(
        "half a vector is any part of it",
        "cc/cpu/kernels/vec_avx512.h",
        "n == kV / 2",
        "n >= kV / 2",
        ("native/test_native.py", *_SMALL),
        isa="avx512",
    ),
    Fault(
        "an activation in Y of the first line alone",
        "cc/cpu/kernels/pointwise_body.h",
        "ActivateY(a, line * groups.line_pixels, groups.line_pixels, *late)",
        "ActivateY(a, 0, groups.line_pixels, *late)",
        _SMALL,
        isa="avx512",
    ),
    Fault(
        "small tiles leave nothing to large ones",
        "cc/cpu/kernels/pointwise_body.h",
        "part.k_end == a.k_end",
        "true",
        _SMALL,
        isa="avx512",
    ),
    Fault(
        "each part of a filter in small tiles is the first",
        "cc/cpu/kernels/pointwise_body.h",
        "static_cast<const ZType*>(a.panels) + k * step",
        "static_cast<const ZType*>(a.panels) + (k - end.k) * step",
        _SMALL,
        isa="avx512",
    ),
    Fault(
        "lines of small tiles are those of the first",
        "cc/cpu/kernels/pointwise_body.h",
        "line * a.z_line_step",
        "0 * a.z_line_step",
        _SMALL,
        isa="avx512",
    ),
    Fault(
        "an activation in Y leaves out the last numbers",
        "cc/cpu/kernels/pointwise_body.h",
        "left == 0",
        "true",
        _SMALL,
    ),
    Fault(
        "rows of strips end one strip early",
        "cc/cpu/kernels/depthwise_body.h",
        "q < last",
        "q + kPixels < last",
        _EDGES,
    ),
    Fault(
        "the last strip of a row has no edge",
        "cc/cpu/kernels/depthwise_body.h",
        "Strip<T, Z, kS, kStride, kPixels, 0, kRight>",
        "Strip<T, Z, kS, kStride, kPixels, 0, 0>",
        _EDGES,
    ),
    Fault(
        "rows in groups read what is right of them",
        "cc/cpu/kernels/depthwise_interior_body.h",
        "w < kColumns - kRight",
        "w < kColumns",
        _EDGES,
        isa="avx512",
    ),
)
