"""Of 16-bit types, of shapes and of what is refused."""

from mutant_faults._fault import Fault

_LAYER = ("native/test_native.py::test_agrees_with_float64",)
_ROUNDING = ("op/test_rounding.py",)

FAULTS = (
    Fault("bfloat16 away from even", "cc/core/half.h", "((u >> 16) & 1u)", "1u", _ROUNDING),
    Fault("float16 away from even", "cc/core/half.h", "((u >> 13) & 1u)", "1u", _ROUNDING),
    Fault(
        "float16 rounds to infinity too late",
        "cc/core/half.h",
        "u >= 0x477ff000u",
        "u >= 0x47800000u",
        _ROUNDING,
        same="the sum of the rounding below carries into infinity just so",
    ),
    Fault(
        "bfloat16 away from even, AVX2",
        "cc/cpu/kernels/vec_avx2.h",
        "_mm256_and_si256(high, _mm256_set1_epi32(1))",
        "_mm256_set1_epi32(1)",
        _ROUNDING,
        isa="avx2",
    ),
    Fault(
        "float16 towards zero, AVX2",
        "cc/cpu/kernels/vec_avx2.h",
        "return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);",
        "return _mm256_cvtps_ph(v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);",
        _ROUNDING,
        isa="avx2",
    ),
    Fault(
        "bfloat16 away from even, AVX-512",
        "cc/cpu/kernels/vec_avx512.h",
        "_mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1))",
        "_mm512_set1_epi32(1)",
        _ROUNDING,
        isa="avx512",
    ),
    Fault(
        "an odd pad in front",
        "cc/core/infer.cc",
        "std::max<int64_t>(covered - in, 0) / 2",
        "(std::max<int64_t>(covered - in, 0) + 1) / 2",
        _LAYER,
    ),
    Fault(
        "a residual of any shape",
        "cc/core/infer.cc",
        "!Agree(given, output)",
        "given.size() != output.size()",
        ("native/test_native_errors.py", "op/test_bad_input.py"),
    ),
    Fault(
        "negative pads",
        "cc/core/attributes.cc",
        "pads[i] < 0",
        "pads[i] < -1000",
        ("block/test_block_shapes.py", "native/test_native_errors.py"),
    ),
    Fault(
        "a shape that needs no filter is unknown",
        "cc/core/infer.cc",
        'r_.padding == "SAME"',
        "false",
        ("op/test_shape_function.py",),
    ),
    Fault(
        "pads of channels-first blocks of unknown batch",
        "cc/core/infer.cc",
        "(nhwc_ ? 2 : 4)",
        "2",
        ("block/test_block_shapes.py",),
    ),
    Fault(
        "a multiplier that an unknown shape forgets",
        "cc/core/infer.cc",
        "c_.K = CM();",
        "c_.K = c_.C;",
        ("block/test_block_shapes.py",),
    ),
    Fault(
        "a gate of another batch",
        "cc/core/infer.cc",
        "!Agree(*r_.gate->sizes, flat)",
        "r_.gate->sizes->size() != 2",
        ("block/test_block_shapes.py", "block/test_conv_block.py"),
    ),
)
