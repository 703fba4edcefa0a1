"""Compiler flags of our own code, by what a room may do. Those for everything are in .bazelrc."""

# Both libraries may be loaded into one process, each with its own copy of the core: hidden symbols keep either from
# binding to the other's. cc/tf does without: TensorFlow identifies types by the address of statics in its inline
# functions, which must stay visible (third_party/exports_ops.lds hides our names there).
WARNINGS = [
    "-Wall",
    "-Wextra",
]

CORE = WARNINGS + ["-fvisibility=hidden"]

# Kernels have few scalar registers to spare, and no buffers a canary would guard.
_KERNEL = CORE + [
    "-fomit-frame-pointer",
    "-fno-stack-protector",
]

_AVX2 = [
    "-mavx2",
    "-mfma",
    "-mf16c",
]

_AVX512 = _KERNEL + _AVX2 + [
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
]

# AVX512_BF16: products of bfloat16, and rounding to it by one instruction.
_AVX512BF16 = _AVX512 + ["-mavx512bf16"]

# AVX-512 as a model that runs on AVX2 (cc/cpu/avx512_model.h); --config=avx512_model asks for it.
_MODEL = _KERNEL + _AVX2 + [
    "-DDWSCONV_AVX512_MODEL",
    "-Wno-psabi",
]
MODEL_COPTS = {
    "avx512": _MODEL,
    "avx512bf16": _MODEL + ["-DDWSCONV_AVX512BF16_MODEL"],
    "avx512rounds": _MODEL + ["-DDWSCONV_AVX512BF16_MODEL"],
}

# A baseline of the architecture (x86-64: SSE2) unless the file's name says otherwise.
ISA_COPTS = {
    "generic": _KERNEL,
    "avx2": _KERNEL + _AVX2,
    "avx512": _AVX512,
    "avx512bf16": _AVX512BF16,
    "avx512rounds": _AVX512BF16,
}

# The targets of cc/cpu/kernels/targets.h: instruction sets, and their names there. avx512rounds has products of float
# and rounds to bfloat16 by AVX512_BF16.
TARGETS = {
    "generic": "Generic",
    "avx2": "Avx2",
    "avx512": "Avx512",
    "avx512bf16": "Avx512Bf16",
    "avx512rounds": "Avx512Rounds",
}

def vectors_of(isa):
    """The name of a target's vectors: cc/cpu/kernels/vec_<name>.h and sizes_<name>.h.

    Args:
      isa: a key of TARGETS.

    Returns:
      The name.
    """
    return "avx512" if isa.startswith("avx512") else isa


# The kinds of tile registers (cc/cpu/kernels/tiles_<kind>.h): names, and the instruction set of the vectors beside them.
# No exceptions, as registers that are let go of at a function's end would ask for their handler.
TILES = {
    "amx": ("Amx", "avx512bf16"),
    "model": ("Model", "generic"),
}
TILES_COPTS = ["-fno-exceptions"]
