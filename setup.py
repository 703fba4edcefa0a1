"""All but one fact of the package is in pyproject.toml: that its wheel holds compiled libraries of this platform."""

from setuptools import Distribution, setup


class BinaryDistribution(Distribution):
    """Gets a wheel the tag of this interpreter and platform, although Bazel and not setuptools compiles."""

    def has_ext_modules(self):
        return True


setup(distclass=BinaryDistribution)
