"""The TensorFlow that pip installed: its headers, and the library that custom ops link with."""

load("//third_party:interpreter.bzl", "ENVIRON", "ask")

_CODE = """
import tensorflow as tf
print(tf.sysconfig.get_include())
print(tf.sysconfig.get_lib())
print(" ".join(flag for flag in tf.sysconfig.get_compile_flags() if flag.startswith("-D")))
print(" ".join(flag for flag in tf.sysconfig.get_link_flags() if flag.startswith("-l")))
"""

# The wheel ships 18 000 headers; those of gRPC, boringssl, CUDA and their like are never reached from an OpKernel, and
# every header named here is one that Bazel looks at before each compilation.
_BUILD = """
package(default_visibility = ["//visibility:public"])

cc_library(
    name = "tensorflow",
    hdrs = glob(
        ["include/" + top + "/**" for top in [{tops}]],
        exclude_directories = 1,
    ),
    defines = [{defines}],
    includes = ["include"],
    # By directory and name, not as a file of a cc_library: that would write run paths of this machine into our library.
    # In use it resolves to the copy that `import tensorflow` has already loaded.
    linkopts = [
        "-L{lib}",
        "{link}",
    ],
)
"""

_TOPS = ["Eigen", "absl", "google", "ml_dtypes", "tensorflow", "tsl", "unsupported", "xla"]

def _quoted(words):
    return ", ".join(["\"%s\"" % word for word in words])

def _installed_tensorflow(ctx):
    include, lib, defines, link = ask(ctx, _CODE, "TensorFlow")[-4:]
    ctx.symlink(include, "include")
    ctx.file("BUILD", _BUILD.format(
        tops = _quoted(_TOPS),
        defines = _quoted([word[2:] for word in defines.split(" ")]),
        lib = lib,
        link = link,
    ))

installed_tensorflow = repository_rule(implementation = _installed_tensorflow, environ = ENVIRON, local = True)
