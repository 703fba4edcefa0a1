"""Packages that only some of the analysis needs, imported on first use."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, needed_for: str) -> Any:
    """Imports `module`, or says which extra brings it.

    Args:
        module: dotted name, such as "scipy.optimize".
        needed_for: what the caller wanted to do, for the message.

    Returns:
        The module.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{needed_for} needs the package `{module.split('.')[0]}`, which could not be imported ({error}). "
            "Install it with: pip install 'tf_dwsconv[analysis]'"
        ) from error
