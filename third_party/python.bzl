"""The headers of Python and of pybind11 (a pip package), as the interpreter names them."""

load("//third_party:interpreter.bzl", "ENVIRON", "ask")

_CODE = "import sysconfig; print(sysconfig.get_paths()['include']); import pybind11; print(pybind11.get_include())"

_BUILD = """
package(default_visibility = ["//visibility:public"])

cc_library(
    name = "python",
    hdrs = glob(["python/**/*.h"]),
    includes = ["python"],
)

cc_library(
    name = "pybind11",
    hdrs = glob(["pybind11/**/*.h"]),
    includes = ["pybind11"],
    deps = [":python"],
)
"""

def _python_headers(ctx):
    python, pybind11 = ask(ctx, _CODE, "the headers of Python and of pybind11")[-2:]
    if not ctx.path(python + "/Python.h").exists:
        fail("no Python.h in %s: install Python's headers (Debian: apt-get install python3-dev)" % python)
    ctx.symlink(python, "python")
    ctx.symlink(pybind11, "pybind11")
    ctx.file("BUILD", _BUILD)

python_headers = repository_rule(implementation = _python_headers, environ = ENVIRON, local = True)
