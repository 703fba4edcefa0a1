"""What the command lines of the analysis and of the tuner share: layers in words, and models by name."""

from __future__ import annotations

import argparse
import os
from typing import Any

from tf_dwsconv._command import Parser, step
from tf_dwsconv.analysis._optional import require
from tf_dwsconv.analysis.problem import Problem

SHAPE_HELP = "a layer as N,H,W,C,K[,kernel[,stride]]: kernel is 3 and stride 1 if left out; repeatable"


def parse_layer(text: str) -> Problem:
    """A layer from N,H,W,C,K[,kernel[,stride]]; x may stand for a comma. For `type` of an argument."""
    try:
        numbers = [int(word) for word in text.replace("x", ",").split(",")]
    except ValueError:
        numbers = []
    if not 5 <= len(numbers) <= 7:
        raise argparse.ArgumentTypeError(f"must be 5 to 7 numbers N,H,W,C,K[,kernel[,stride]]; given {text!r}")
    *sizes, kernel, stride = (*numbers, *(3, 1)[len(numbers) - 5 :])
    try:
        return Problem(*sizes, R=kernel, S=kernel, stride=stride)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_model(parser: Parser) -> None:
    """Adds the arguments that name a model; `model_of` reads them."""
    what = "a .keras file, or the name of a model in keras.applications"
    parser.add_argument("model", nargs="?", help=what)
    parser.add_argument("--model", dest="model_flag", metavar="MODEL", help="the same as the first argument")
    parser.add_argument("--application", dest="model_flag", help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, default=1, help="N of the model's layers; default: %(default)s")


def model_of(parser: Parser, given: Any) -> Any:
    """The model that was asked for, or None; a name that fits nothing is wrong use."""
    if given.model is not None and given.model_flag is not None:
        parser.error("the model was given twice, as an argument and as --model")
    name = given.model if given.model is not None else given.model_flag
    if name is None:
        return None
    if given.batch_size < 1:
        parser.error(f"--batch-size must be at least 1; given {given.batch_size}")
    with step(f"loading {name}"):
        keras = require("keras", "a model")
        if os.path.exists(name):
            return keras.saving.load_model(name, compile=False)
        make = getattr(keras.applications, name, None)
        if not callable(make):
            parser.error(f"the model must be a file or a name in keras.applications; given {name!r}")
        return make(weights=None)
