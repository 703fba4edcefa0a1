"""C++ unit tests beside the files that they test, over Debian's GoogleTest (libgtest-dev); tools/build.sh test runs them."""

load("//cc:copts.bzl", "WARNINGS")

def unit_tests(files, deps, srcs = []):
    """A test for each file, of its name; srcs are headers that they share."""
    for file in files:
        native.cc_test(
            name = file[:-len(".cc")],
            size = "small",
            srcs = [file] + srcs,
            copts = WARNINGS,
            linkopts = [
                "-lgtest_main",
                "-lgtest",
                "-pthread",
            ],
            linkstatic = True,  # of a shared library of the core nothing can be seen
            deps = deps,
        )
