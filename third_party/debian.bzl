"""Debian's bazel-bootstrap, offline: the repositories that Bazel's own tools load, from what Debian installs."""

# Debian's packages bazel-rules-java, bazel-rules-proto, bazel-platforms and bazel-skylib.
_PACKAGED = {
    "bazel_skylib": "/usr/share/bazel/tools/skylib",
    "platforms": "/usr/share/bazel/platforms",
    "rules_java": "/usr/share/bazel/rules/java",
    "rules_proto": "/usr/share/bazel/rules/proto",
}

def debian_repositories():
    """Does nothing under a Bazel that knows its version, as all but Debian's build of 4.2.3 do: those fetch their own."""
    if native.bazel_version not in ["", "no_version"]:
        return

    # Debian's own bazel-rules-cc does not fit 4.2.3.
    native.local_repository(name = "rules_cc", path = "third_party/rules_cc")

    # What every cc_test depends on, whether coverage is asked for or not.
    native.local_repository(name = "remote_coverage_tools", path = "third_party/remote_coverage_tools")
    for name, path in _PACKAGED.items():
        native.local_repository(name = name, path = path)
