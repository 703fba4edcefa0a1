"""The GPU kernels that nvcc has compiled: tools/cuda.sh puts them into build/cuda, with the CUDA runtime beside them.

nvcc's part is not a rule of Bazel: it needs neither TensorFlow nor Bazel, and runs where those are not installed.
"""

_ARCHIVE = "libdwsconv_cuda_kernels.a"

_BUILD = """
package(default_visibility = ["//visibility:public"])

cc_import(
    name = "kernels",
    static_library = "{archive}",
)
"""

def _compiled_kernels(ctx):
    archive = ctx.path(str(ctx.path(Label("//:WORKSPACE")).dirname) + "/build/cuda/" + _ARCHIVE)
    if not archive.exists:
        fail("--define=cuda=1 needs build/cuda/%s; `make cuda` makes it and then this library" % _ARCHIVE)
    ctx.symlink(archive, _ARCHIVE)
    ctx.file("BUILD", _BUILD.format(archive = _ARCHIVE))

compiled_kernels = repository_rule(implementation = _compiled_kernels, environ = ["DWSCONV_STAMP"], local = True)
