"""What the extension is compiled from and with: sources, C++ compiler, CUDA toolkit, flags. Needs no torch."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Compute capabilities built by default, as far as nvcc and torch know them. GPUs of 8.9 run the code for 8.6, which is
# byte for byte what nvcc makes for them.
DEFAULT_CUDA_ARCHS = ((7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0))
# The PTX that their machine code is made from: that of the newest of these that is not newer. It is most of the compile
# time, and the kernels use nothing that a later one adds.
PTX_ARCHS = ((7, 5), (8, 0))

CXX_PROBE = """
#include <Python.h>
#include <optional>
#include <string_view>
#if __cplusplus > 201703L
#include <concepts>
#include <span>
#endif
extern "C" int segnet_ext_probe() { return std::optional<std::string_view>("probe")->size() == 5; }
"""
CUDA_PROBE = """
#include <cuda_runtime.h>
__global__ void probe(float* values) { values[threadIdx.x] = 0.0f; }
int main() { probe<<<1, 1>>>(nullptr); return static_cast<int>(cudaGetLastError()); }
"""


class ToolchainError(Exception):
    """One sentence: what is missing or broken."""


def sources(cuda: bool) -> list[str]:
    """Every C++ file of csrc/ and of the folders in it, with `cuda` also the CUDA files and those that start them.

    New files need no list.
    """
    suffixes = ("cpp", "cu") if cuda else ("cpp",)
    return sorted(
        path.relative_to(ROOT).as_posix()
        for suffix in suffixes
        for folder in ("csrc", "csrc/*")
        for path in ROOT.glob(f"{folder}/*.{suffix}")
        if cuda or not path.stem.endswith("_cuda")
    )


def merged_sources(cuda: bool, folder: Path) -> list[str]:
    """The sources as setup.py compiles them: all C++ files that see torch as one, and all CUDA files, in `folder`.

    torch's headers take many times as long to compile as what these files hold, and so are compiled once; CUDA's are
    read once for each architecture. Files of one namespace must not define the same name, be it in an anonymous
    namespace.
    """
    files = sources(cuda)
    alone = re.compile(r"_cpu_kernel\.cpp$|^csrc/simd/")
    folder.mkdir(parents=True, exist_ok=True)
    merged = []
    for name, suffix in (("segnet_ext_torch.cpp", ".cpp"), ("segnet_ext_kernels.cu", ".cu")):
        parts = [file for file in files if file.endswith(suffix) and not alone.search(file)]
        text = "".join(f'#include "{(ROOT / file).as_posix()}"\n' for file in parts)
        path = folder / name
        if parts:
            merged.append(str(path))
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
    return [*merged, *filter(alone.search, files)]


def enabled(variable: str) -> bool:
    """Whether the environment variable is set to something that means yes."""
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


def cxx_standard(torch_folder: Path) -> int:
    """The C++ standard that torch's headers need and its BuildExtension passes, as torch's own text has it."""
    text = (torch_folder / "utils" / "cpp_extension.py").read_text(encoding="utf-8")
    return max(map(int, re.findall(r"-std=c\+\+(\d\d)\b", text)), default=17)


@dataclass(frozen=True)
class Compiler:
    command: list[str]
    version: str  # the first line of its --version
    openmp: bool


def find_compiler(standard: int) -> Compiler:
    """The C++ compiler that torch will run, proved by a small program; ToolchainError says what to do without one."""
    if sys.platform == "win32":
        raise ToolchainError("segnet_ext is built with GCC or Clang and not with MSVC: build it on Linux or under WSL.")
    install = "install one (on Debian and Ubuntu: apt-get install g++) or set CXX to GCC's or Clang's C++ compiler"
    if chosen := os.environ.get("CXX"):
        command = shlex.split(chosen)
        if shutil.which(command[0]) is None:
            raise ToolchainError(f"CXX must name a C++ compiler, and CXX={chosen} is not there: {install}.")
    else:
        found = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
        if found is None:
            raise ToolchainError(f"No C++ compiler was found (tried c++, g++ and clang++): {install}.")
        command = [found]
    name = shlex.join(command)
    version = _output([*command, "--version"]).partition("\n")[0].strip() or name
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise ToolchainError(
            f"Python's C headers are missing ({headers / 'Python.h'}): install them "
            "(on Debian and Ubuntu: apt-get install python3-dev)."
        )
    flags = [f"-std=c++{standard}", "-fPIC", "-shared", f"-I{headers}"]
    for openmp in [["-fopenmp"], []] if sys.platform == "linux" else [[]]:
        error = _try_compile([*command, *flags, *openmp], "probe.cpp", CXX_PROBE)
        if error is None:
            return Compiler(command, version, bool(openmp))
    raise ToolchainError(
        f"The C++ compiler {name} ({version}) cannot compile a small C++{standard} program ({error}): "
        "install GCC 11 or newer or Clang 14 or newer, or set CXX to one."
    )


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit: its folder and version, and the architectures that its nvcc can compile for."""

    root: Path
    version: str
    archs: tuple[tuple[int, int], ...]

    @property
    def nvcc(self) -> Path:
        return self.root / "bin" / "nvcc"


def find_toolkit() -> Toolkit:
    """The CUDA toolkit of CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda; ToolchainError where there is none."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            nvcc = Path(home, "bin", "nvcc")
            if not nvcc.is_file():
                raise ToolchainError(f"no nvcc was found at {nvcc}, where {variable} points")
            break
    else:
        on_path = shutil.which("nvcc", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"]))
        if on_path is None:
            raise ToolchainError("no CUDA toolkit was found (nvcc is neither on PATH nor under CUDA_HOME)")
        nvcc = Path(on_path)
    version = re.search(r"release (\d+\.\d+)", _output([str(nvcc), "--version"]))
    if version is None:
        raise ToolchainError(f"{nvcc} does not run")
    # The nvcc on PATH may be a script that starts another one: only nvcc itself knows its toolkit.
    plan = _output([str(nvcc), "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull])
    top = re.search(r"^#\$ TOP=(.+)$", plan, re.MULTILINE)
    root = Path(top[1]).resolve() if top else nvcc.resolve().parent.parent
    archs = re.findall(r"compute_(\d+)(\d)\b", _output([str(nvcc), "--list-gpu-arch"]))
    return Toolkit(root, version[1], tuple((int(major), int(minor)) for major, minor in archs))


def check_toolkit(toolkit: Toolkit, torch_cuda: str) -> None:
    """ToolchainError unless the toolkit can build against a torch of CUDA `torch_cuda`."""
    if toolkit.version.split(".")[0] != torch_cuda.split(".")[0]:
        raise ToolchainError(
            f"torch is built for CUDA {torch_cuda} and the toolkit in {toolkit.root} is {toolkit.version}"
        )
    host = ["-ccbin", os.environ["CC"]] if os.environ.get("CC") else []  # as torch's BuildExtension has it
    error = _try_compile([str(toolkit.nvcc), *host], "probe.cu", CUDA_PROBE)
    if error is not None:
        raise ToolchainError(f"nvcc {toolkit.version} cannot compile a small program ({error})")


def default_archs(toolkit: Toolkit, torch_archs: Sequence[str]) -> list[tuple[int, int]]:
    """What is built without TORCH_CUDA_ARCH_LIST, by nvcc and for the torch compiled for `torch_archs` (sm_75, …)."""
    known = re.findall(r"\bsm_(\d+)(\d)\b", " ".join(torch_archs))
    newest = max(((int(major), int(minor)) for major, minor in known), default=DEFAULT_CUDA_ARCHS[-1])
    return [arch for arch in DEFAULT_CUDA_ARCHS if arch in toolkit.archs and arch <= newest]


def ptx_arch(arch: tuple[int, int]) -> tuple[int, int]:
    """The architecture whose PTX the machine code for `arch` is made from."""
    return max(ptx for ptx in PTX_ARCHS if ptx <= arch)


def gencode_flags(archs: Sequence[tuple[int, int]]) -> list[str]:
    """nvcc's flags for machine code for `archs`, and the newest of the PTX it is made from, for later GPUs."""
    pairs = [("{}{}".format(*ptx_arch(arch)), "sm_{}{}".format(*arch)) for arch in archs]
    newest = pairs[-1][0]
    pairs.append((newest, f"compute_{newest}"))
    return [f"-gencode=arch=compute_{ptx},code={code}" for ptx, code in pairs]


def usable_gencode(gencode: Sequence[str]) -> list[str]:
    """`gencode` without PTX of 7.5; ToolchainError where it is for older GPUs.

    Which kernel of an operation runs is decided by the GPU: from 8.0 on, one that is a mere trap in PTX of 7.5. A GPU
    that no other code is for gets CUDA's own error instead.
    """
    old = [number for number in map(int, re.findall(r"code=(?:sm|compute)_(\d+)", " ".join(gencode))) if number < 75]
    if old:
        raise ToolchainError(f"TORCH_CUDA_ARCH_LIST must name architectures of 7.5 or newer, got {min(old) / 10}")
    return [flag for flag in gencode if not flag.endswith("code=compute_75")]


def archs_text(gencode: Sequence[str]) -> str:
    """The compute capabilities that such flags make machine code for: 7.5;8.0."""
    found = {(int(major), int(minor)) for major, minor in re.findall(r"\bsm_(\d+)(\d)", " ".join(gencode))}
    return ";".join(f"{major}.{minor}" for major, minor in sorted(found))


def library_includes(torch_folder: Path) -> list[str]:
    """Folders of the CUDA library headers (cuBLAS, cuSPARSE, …) that torch's wheels bring and a bare toolkit lacks."""
    return sorted(str(path) for path in (torch_folder.parent / "nvidia").glob("*/include"))


def cxx_flags(debug: bool, openmp: bool) -> list[str]:
    # Results must not depend on the machine that builds or on reordered sums: no -march=native, no -ffast-math.
    # errno is the one promise of the maths functions that is dropped, since it keeps sqrt from being one instruction.
    # Unwanted are also Python's own -g, which makes the library ten times as large, and -DNDEBUG when debugging.
    optimisation = ["-O0", "-g", "-UNDEBUG", "-D_GLIBCXX_ASSERTIONS"] if debug else ["-O3", "-g0"]
    # A product and a sum become one instruction where the processor has it; GCC's default, said for other compilers.
    arithmetic = ["-fno-math-errno", "-ffp-contract=fast"]
    # GCC's note that wide vectors are passed by value in another way than long ago: such functions are always inlined.
    return [*optimisation, "-fvisibility=hidden", "-Wno-psabi", *arithmetic, *(["-fopenmp"] if openmp else [])]


def nvcc_flags(debug: bool, openmp: bool, jobs: int) -> list[str]:
    # -O is of the host code alone, which only starts kernels; those are optimised unless -G forbids it.
    optimisation = ["-O0", "-g", "-G", "-UNDEBUG"] if debug else ["-O1"]
    threads = f"--threads={jobs}"  # that compile for architectures side by side
    return [*optimisation, threads, "-Xcompiler=-fvisibility=hidden", *(["-Xcompiler=-fopenmp"] if openmp else [])]


def _output(command: list[str]) -> str:
    with contextlib.suppress(OSError):
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        return run.stdout
    return ""


def _try_compile(command: list[str], name: str, text: str) -> str | None:
    """Compiles and links a program; returns the first error, or None."""
    with tempfile.TemporaryDirectory(prefix="segnet_ext-probe-") as folder:
        source = Path(folder, name)
        source.write_text(text, encoding="utf-8")
        try:
            run = subprocess.run(
                [*command, str(source), "-o", str(Path(folder, "probe.out"))],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as error:
            return str(error)
    if run.returncode == 0:
        return None
    lines = [line.strip() for line in run.stdout.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else f"exit {run.returncode}")
