"""The extension whose CUDA kernels run on the host, for tests on machines without a GPU.

It is built from the source tree by CMake into build/emulated, which takes minutes once and is kept. Its functions take
CPU tensors and do everything that the CUDA build does with CUDA tensors: same allocations, same launches, same kernels.
"""

import functools
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from filelock import FileLock  # torch comes with it

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "emulated"


def missing() -> str | None:
    """What the build lacks, if anything."""
    for tool in ("cmake", "ninja", "g++"):
        if shutil.which(tool) is None:
            return f"the host build of the CUDA kernels needs {tool}"
    version = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True).stdout.strip().partition(".")[0]
    if not version.isdigit() or int(version) < 12:
        return f"the host build of the CUDA kernels needs GCC 12 or newer, got {version or 'none'}"
    if not (ROOT / "csrc").is_dir():
        return "the host build of the CUDA kernels needs the source tree beside the tests"
    return None


@functools.cache
def load() -> ModuleType:
    """Builds the module where it is out of date, and imports it."""
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CXX_COMPILER": "g++",
        "Python3_EXECUTABLE": sys.executable,
        "SEGNET_EXT_HOST_CUDA": "ON",
        "SEGNET_EXT_PORTABLE": "ON",
    }
    given = [f"-D{name}={value}" for name, value in options.items()]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / "lock"):  # several processes of pytest-xdist may ask for it
        _run("cmake", "-S", ROOT, "-B", FOLDER, "-G", "Ninja", *given)
        _run("cmake", "--build", FOLDER, "--target", "segnet_ext_emulated")
    (path,) = FOLDER.rglob("_C.*.so")
    spec = importlib.util.spec_from_file_location("segnet_ext_emulated._C", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
