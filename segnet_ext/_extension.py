"""Loads the compiled module segnet_ext._C, or says in one sentence what to do when it cannot be used."""

import importlib
import importlib.metadata
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_REBUILD = "`pip install --force-reinstall --no-deps --no-cache-dir .` in segnet_ext's source folder"


def _release(version: str) -> str:
    """The part of torch's version that its C++ ABI goes with: 2.13 of 2.13.0+cpu."""
    return ".".join(version.split(".")[:2])


def _required_torch() -> str | None:
    """The torch release that the installed package's metadata asks for, which is the one it was built against."""
    try:
        requirements = importlib.metadata.requires("segnet_ext") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    matches = (re.match(r"torch==(\d+\.\d+)\.", requirement) for requirement in requirements)
    return next((match[1] for match in matches if match), None)


def _torch_mismatch(built: str) -> str:
    return (
        f"segnet_ext was built against torch {built} and cannot run with the installed torch {torch.__version__}: "
        f"rebuild it with {_REBUILD}, or install torch {_release(built)} again."
    )


def _not_built() -> str:
    package = Path(__file__).parent
    if not (package.parent / "setup.py").is_file():
        return f"segnet_ext is installed without its compiled module _C: rebuild it with {_REBUILD}."
    return (
        f"segnet_ext is not built in its source folder {package.parent}, which Python imports it from: run "
        "`pip install -e .` there, or `pip install .` and start Python (or `pytest`, not `python -m pytest`) so that "
        "the source folder is not on its path."
    )


def load() -> ModuleType:
    """The module segnet_ext._C. ImportError says what to do where it is missing or was built against another torch."""
    if importlib.util.find_spec("segnet_ext._C") is None:
        raise ImportError(_not_built())
    try:
        extension = importlib.import_module("segnet_ext._C")
    except ImportError as error:
        built = _required_torch()
        if built is not None and built != _release(torch.__version__):
            raise ImportError(_torch_mismatch(built)) from error
        raise ImportError(
            f"segnet_ext's compiled module does not load ({error}): rebuild it with {_REBUILD}."
        ) from error
    built = extension.build_info()["torch"]
    if _release(built) != _release(torch.__version__):
        raise ImportError(_torch_mismatch(built))
    return extension


_C = load()


def build_info() -> dict[str, Any]:
    """What the compiled module was built from and with, and which SIMD level it runs at.

    Keys: ``version`` of segnet_ext; ``compiler``, ``flags``, ``debug``, ``cxx11_abi``; ``python`` and ``torch``, the
    versions built for; ``cuda``, the toolkit's version, and ``cuda_archs``, the compute capabilities with machine code,
    both None in a build without CUDA; ``simd_built`` and ``simd_supported``, the instruction sets that the CPU kernels
    are built for and that this processor has, and ``simd``, the one in use.
    """
    from segnet_ext import __version__

    return {"version": __version__, **_C.build_info()}


def empty_cache() -> None:
    """Gives the CPU memory that is kept for large results to come back to the system.

    Results and gradients of 512 KiB and more lie in memory of their own. Of those that are gone, some is kept: up to
    64 MiB of those smaller than 4 MiB and 256 MiB of the others, and never so much of either that it is more than was
    in use at once. A training step thus takes what the one before left. As :func:`torch.cuda.empty_cache` does for the
    GPU, this empties that store, and touches no tensor.
    """
    _C.empty_cache()
