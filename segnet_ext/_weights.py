"""Files of weights, whoever wrote them: the one place where they are read. No code in a file runs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from segnet_ext.errors import require


def read_weights(path: Path) -> tuple[Any, dict[str, str]]:
    """What a ``.safetensors`` file or one of ``torch.save`` holds, on the CPU, and the texts that the former may add.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is damaged, or holds other things than tensors and plain data.
        InputError: a ``.safetensors`` file where the safetensors package is missing.
    """
    if path.suffix == ".safetensors":
        require(f"reading {path.name}", "safetensors")
        from safetensors import safe_open
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:  # which is no mapping, but for its keys()
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        with warnings.catch_warnings():  # of what other programs' files may hold
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True), {}
    except OSError:
        raise
    except Exception as error:  # both readers meet damaged bytes with exceptions of any kind
        raise ValueError(str(error)) from error
