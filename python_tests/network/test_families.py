"""Each family of keras.applications that has depthwise convolutions, predicted and trained: converted, converted for
training, with the fallback, with oneDNN and without. Against stock layers of the same weights.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import python_environment
from some_commits import some_of

PROGRAM = Path(__file__).with_name("families_program.py")
FAMILIES = (
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "NASNetMobile",
    "Xception",
    "ConvNeXtTiny",
)
# All of them take three minutes, so a commit has four families each way.
WAYS = {
    "fused": ({}, some_of(FAMILIES, 4)),
    "fallback": ({"DWSCONV_DISABLE": "1"}, some_of(FAMILIES, 4)),
    "fallback without oneDNN": (
        {"DWSCONV_DISABLE": "1", "TF_ENABLE_ONEDNN_OPTS": "0"},
        some_of(("MobileNetV2", "Xception"), 1),
    ),
}


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        env=python_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What the processes of all ways printed; they run side by side, once the stock answers are there."""
    folder = tmp_path_factory.mktemp("families")
    making = start("make", folder, *sorted({name for _, names in WAYS.values() for name in names}))
    told, _ = making.communicate(timeout=600)
    assert making.returncode == 0, told[-4000:]
    running = {way: start("check", folder, *names, **environment) for way, (environment, names) in WAYS.items()}
    return {way: process.communicate(timeout=600)[0] for way, process in running.items()}


@pytest.mark.usefixtures("op_library")
@pytest.mark.parametrize("way, name", [(way, name) for way, (_, names) in WAYS.items() for name in names])
def test_predict_and_fit(outputs, way, name):
    assert f"right {name}\n" in outputs[way], outputs[way][-4000:]
