"""TensorFlow's own tests of depthwise convolutions, with our op in the place of theirs (tf_depthwise_program.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import python_environment
from some_commits import one_commit_in_four

pytestmark = pytest.mark.usefixtures("op_library")

# They compare a GPU with a CPU, or cuDNN's kernel, and TensorFlow marks them so (run_gpu_only).
GPU_ONLY = {
    "testDepthwiseConv2DCudnn",
    "testDepthwiseConv2DFilterGradCompare",
    "testDepthwiseConv2DFilterGradCudnn",
    "testDepthwiseConv2DFilterGradExplicitCompare",
    "testDepthwiseConv2DForwardCompare",
    "testDepthwiseConv2DForwardExplicitCompare",
    "testDepthwiseConv2DInputGradCompare",
    "testDepthwiseConv2DInputGradCudnn",
    "testDepthwiseConv2DInputGradExplicitCompare",
}
RUN = {
    "testConv2D2x2Filter",
    "testDepthwiseConv2D",
    "testDepthwiseConv2DExplicit",
    "testDepthwiseConv2DFilterGrad",
    "testDepthwiseConv2DFilterGradExplicit",
    "testDepthwiseConv2DFilterGradFormat",
    "testDepthwiseConv2DFormat",
    "testDepthwiseConv2DInputGrad",
    "testDepthwiseConv2DInputGradExplicit",
    "testDepthwiseConv2DInputGradFormat",
    "testDepthwiseConv2DWithUnknownShape",
}


@one_commit_in_four(2, "TensorFlow's own tests take a minute, and ours cover what they do")
def test_tensorflows_own_tests_pass_with_our_op():
    program = Path(__file__).with_name("tf_depthwise_program.py")
    done = subprocess.run(
        [sys.executable, str(program)], env=python_environment(), capture_output=True, text=True, timeout=600
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    passed = {line[1] for line in lines if line[0] == "passed"}
    skipped = {line[1] for line in lines if line[0] == "skipped"}
    # testSession is unittest machinery of tf.test.TestCase, which skips itself.
    assert skipped - {"test_session"} == GPU_ONLY
    assert passed >= RUN
    built = next(line for line in lines if line[0] == "built")
    assert int(built[1]) > 100, "our op was hardly ever called"
