"""PEP 517 build backend: setuptools, built against the torch that is already installed.

An installer with build isolation runs the build in an environment of its own, where the user's torch is out of sight.
A C++ extension works only with the torch that it was compiled against, so this backend looks the user's torch up in the
environment that the installer was started from and builds against that one. Where there is none, it asks the installer
for SETTLED_TORCH. Either way the wheel requires the release that it was built against (torch_requirement).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import setuptools
from setuptools import build_meta

MINIMUM_TORCH = (2, 6)
# Built and run with where no torch is installed; the environment variable SEGNET_EXT_TORCH names another one.
SETTLED_TORCH = "2.13.0"
MINIMUM_SETUPTOOLS = 77  # the first to read the licence as pyproject.toml writes it

# Run in another interpreter: its version, and where it would import torch from.
_PROBE = """
import importlib.util, json, sys
sys.path[:] = [path for path in sys.path if path]
spec = importlib.util.find_spec("torch")
found = bool(spec and spec.origin)
print(json.dumps([list(sys.version_info[:2]), spec.submodule_search_locations[0] if found else None, sys.path]))
"""


def _user_pythons() -> Iterator[tuple[str, tuple[str, ...]]]:
    """The interpreters that may have started the installer, likeliest first, and the variables to run each without.

    pip runs the backend with the user's own interpreter and hides its packages by PYTHONPATH and PYTHONNOUSERSITE.
    `python -m build`, and pip with --use-feature=venv-isolation, run it in a new virtual environment. There pyvenv.cfg
    names the interpreter that made it (from Python 3.11 on), and so does the parent process, which is the installer.
    """
    yield sys.executable, ("PYTHONPATH", "PYTHONNOUSERSITE")
    with contextlib.suppress(OSError):
        for line in Path(sys.prefix, "pyvenv.cfg").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "command":
                yield value.partition(" -m venv ")[0].strip(), ("PYTHONPATH",)
    with contextlib.suppress(OSError, UnicodeError):
        installer = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")[0].decode()
        if Path(installer).name.startswith("python"):
            outside = os.pathsep.join(
                folder for folder in os.environ.get("PATH", "").split(os.pathsep) if not folder.startswith(sys.prefix)
            )
            yield shutil.which(installer, path=outside) or installer, ("PYTHONPATH",)
    if active := os.environ.get("VIRTUAL_ENV"):
        yield str(Path(active, "Scripts" if os.name == "nt" else "bin", "python")), ("PYTHONPATH",)


def outer_torch_path() -> list[str]:
    """The sys.path entries that hold the user's torch and what it imports, for one who builds in isolation.

    Asking the interpreter itself, rather than guessing folders, gets user site-packages, system site-packages and .pth
    files right.
    """
    for python, hidden_by in _user_pythons():
        environment = {name: value for name, value in os.environ.items() if name not in hidden_by}
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
            probe = subprocess.run(
                [python, "-c", _PROBE], env=environment, capture_output=True, check=True, text=True, timeout=60
            )
            version, torch, path = json.loads(probe.stdout)
            if torch is not None and version == list(sys.version_info[:2]):
                return [str(Path(torch).parent), *path]
    return []


def find_torch() -> bool:
    """Makes `import torch` work in this process if a torch is installed anywhere that counts; says whether it does."""
    if importlib.util.find_spec("torch") is None:
        # Behind the isolated environment's own folders, so that the build tools asked for there win.
        sys.path += [path for path in outer_torch_path() if path not in sys.path]
        importlib.invalidate_caches()
    if importlib.util.find_spec("torch") is None:
        return False
    version = torch_version()
    if release(version) < MINIMUM_TORCH:
        wanted = ".".join(map(str, MINIMUM_TORCH))
        raise SystemExit(
            f"segnet_ext needs torch {wanted} or newer and found {version}: upgrade it with `pip install -U torch`."
        )
    return True


def torch_version() -> str:
    """The version of the importable torch, without paying for its import."""
    return importlib.metadata.version("torch")


def release(version: str) -> tuple[int, int]:
    """The (major, minor) of a version such as 2.13.0+cpu."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        raise ValueError(f"version must begin with two numbers, got {version!r}")
    return int(match[1]), int(match[2])


def torch_requirement(built: bool) -> str:
    """What the package requires of torch: once built, the release built against, whose C++ ABI no other one shares."""
    if not built:
        return "torch>=" + ".".join(map(str, MINIMUM_TORCH))
    major, minor = release(torch_version())
    return f"torch=={major}.{minor}.*"


def _build_requirements() -> list[str]:
    return [] if find_torch() else ["torch==" + os.environ.get("SEGNET_EXT_TORCH", SETTLED_TORCH)]


def _prepare() -> None:
    if release(setuptools.__version__ + ".0") < (MINIMUM_SETUPTOOLS, 0):
        raise SystemExit(
            f"segnet_ext needs setuptools {MINIMUM_SETUPTOOLS} or newer to build and found {setuptools.__version__}: "
            "upgrade it with `pip install -U setuptools`, or build without --no-build-isolation."
        )
    find_torch()
    # setuptools packs whatever lies in build/lib*, also modules that the source tree no longer has.
    for stale in Path("build").glob("lib*"):
        shutil.rmtree(stale, ignore_errors=True)


def get_requires_for_build_sdist(config_settings=None) -> list[str]:
    return []


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    return _build_requirements()


def get_requires_for_build_editable(config_settings=None) -> list[str]:
    return _build_requirements()


def build_sdist(sdist_directory, config_settings=None) -> str:
    _prepare()
    return build_meta.build_sdist(sdist_directory, config_settings)


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None) -> str:
    _prepare()
    return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    _prepare()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def prepare_metadata_for_build_editable(metadata_directory, config_settings=None) -> str:
    _prepare()
    return build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    _prepare()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
