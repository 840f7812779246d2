"""What nvcc makes of the CUDA kernels: registers, shared memory, spills, occupancy, instructions. No GPU is needed.

Each ``benchmarks/ptxas/<op>.cu`` includes the kernels of an operation and calls its launch functions. It is compiled
for each architecture, where ptxas reports on every kernel, and once for the host, where it is linked with
``recorder.cpp`` in place of CUDA's runtime library and run: so threads and dynamic shared memory are those that the
launch code really asks for. Results are kept in a cache by a hash of the sources (``SEGNET_EXT_PTXAS_CACHE``, else
``build-ptxas/`` in the source tree).
"""

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "build_backend"))

import segnet_ext_toolchain as toolchain

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
DRIVERS = ROOT / "benchmarks" / "ptxas"
FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", f"-I{CSRC}", f"-I{CSRC / 'include'}", f"-I{DRIVERS}"]
EMPTY_KERNEL = "segnet_ext_empty_kernel"


@dataclass(frozen=True)
class Arch:
    """Limits: "Technical Specifications per Compute Capability" in NVIDIA's CUDA programming guide."""

    warps: int  # of a multiprocessor
    blocks: int  # of a multiprocessor
    shared_memory: int  # bytes of a multiprocessor
    block_shared_memory: int  # the most that one block may ask for
    reserved: int  # bytes that the system takes for each block

    registers: int = 65536  # of a multiprocessor; given to whole warps, 256 at a time


KIB = 1024
ARCHS = {
    75: Arch(32, 16, 64 * KIB, 64 * KIB, 0),
    80: Arch(64, 32, 164 * KIB, 163 * KIB, KIB),
    86: Arch(48, 16, 100 * KIB, 99 * KIB, KIB),
    89: Arch(48, 24, 100 * KIB, 99 * KIB, KIB),
    90: Arch(64, 32, 228 * KIB, 227 * KIB, KIB),
    100: Arch(64, 32, 228 * KIB, 227 * KIB, KIB),
    120: Arch(48, 24, 100 * KIB, 99 * KIB, KIB),
}


@dataclass(frozen=True)
class Compiled:
    """A kernel as ptxas reports it."""

    name: str  # in the object file
    registers: int
    static_shared: int
    stack: int
    spill_stores: int
    spill_loads: int


@dataclass(frozen=True)
class Launch:
    """What the launch code asks for."""

    case: str
    name: str
    blocks: int
    threads: int
    dynamic_shared: int


@dataclass(frozen=True)
class Report:
    """An operation on an architecture. ``kernels`` leaves out ``stubs``, which are for other architectures."""

    kernels: dict[str, Compiled]
    stubs: frozenset[str]
    launches: tuple[Launch, ...]
    cubin: Path


def ops() -> list[str]:
    """The operations with CUDA kernels."""
    return sorted(path.stem for path in DRIVERS.glob("*.cu"))


def arch_name(arch: int) -> str:
    return f"{arch // 10}.{arch % 10}"


def _included(path: Path, seen: dict[Path, str]) -> None:
    if path in seen:
        return
    seen[path] = text = path.read_text(encoding="utf-8")
    for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE):
        for folder in (path.parent, CSRC, CSRC / "include", DRIVERS):
            if (folder / name).is_file():
                _included((folder / name).resolve(), seen)
                break


def source_hash(op: str) -> str:
    """Of all that an operation's kernels are compiled from, without comments and white space, and of the PTX chosen."""
    seen: dict[Path, str] = {}
    _included(DRIVERS / f"{op}.cu", seen)
    _included(DRIVERS / "recorder.cpp", seen)
    digest = hashlib.sha256(repr(toolchain.PTX_ARCHS).encode())
    for path in sorted(seen):
        bare = re.sub(r"//[^\n]*|/\*.*?\*/", "", seen[path], flags=re.DOTALL)
        digest.update(re.sub(r"\s", "", bare).encode())
    return digest.hexdigest()[:16]


@lru_cache
def find_toolkit() -> toolchain.Toolkit:
    """The CUDA toolkit; toolchain.ToolchainError where there is none."""
    return toolchain.find_toolkit()


def _cache(op: str) -> Path:
    base = Path(os.environ.get("SEGNET_EXT_PTXAS_CACHE") or ROOT / "build-ptxas")
    folder = base / f"{op}-{source_hash(op)}-nvcc{find_toolkit().version}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(command: Iterable[object]) -> str:
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{run.stdout}{run.stderr}")
    return run.stdout + run.stderr


def parse_ptxas(text: str) -> list[Compiled]:
    """The entries of what `ptxas -v` prints."""
    entries = []
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers([^\n]*)"
    )
    for match in re.finditer(pattern, text, re.DOTALL):
        name, stack, stores, loads, registers, rest = match.groups()
        shared = re.search(r"(\d+) bytes smem", rest)
        entries.append(
            Compiled(name, int(registers), int(shared[1]) if shared else 0, int(stack), int(stores), int(loads))
        )
    return entries


def machine_code(cubin: bytes) -> dict[str, bytes]:
    """The code of each kernel in an ELF64 object file: the sections .text.<name>."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<II4Q", cubin, table + i * entry_size) for i in range(count)]
    names = sections[names_index][4]
    code = {}
    for name_offset, _, _, _, offset, size in sections:
        start = names + name_offset
        name = cubin[start : cubin.index(b"\0", start)].decode()
        if name.startswith(".text."):
            code[name.removeprefix(".text.")] = cubin[offset : offset + size]
    return code


def _compile(op: str, arch: int) -> tuple[list[Compiled], Path]:
    folder = _cache(op)
    cubin, record = folder / f"sm_{arch}.cubin", folder / f"sm_{arch}.json"
    if not record.is_file():
        # From the PTX that setup.py has the machine code made from.
        ptx = "compute_{}{}".format(*toolchain.ptx_arch(divmod(arch, 10)))
        command = [find_toolkit().nvcc, *FLAGS, "-Xptxas=-v", "-cubin", f"-gencode=arch={ptx},code=sm_{arch}"]
        kernels = parse_ptxas(_run([*command, "-o", cubin, DRIVERS / f"{op}.cu"]))
        partial = record.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps([asdict(kernel) for kernel in kernels]), encoding="utf-8")
        partial.replace(record)
    return [Compiled(**entry) for entry in json.loads(record.read_text(encoding="utf-8"))], cubin


def record_launches(op: str, arch: int) -> tuple[Launch, ...]:
    """What the launch code starts on an architecture, in the order in which it does."""
    recorder = _cache(op) / "recorder"
    if not recorder.is_file():
        partial = recorder.with_suffix(f".{os.getpid()}")
        # No machine code is wanted here, and PTX is the least that nvcc goes on with.
        code = ["-gencode=arch=compute_75,code=compute_75", "-cudart=none"]
        sources = [DRIVERS / f"{op}.cu", DRIVERS / "recorder.cpp"]
        _run([find_toolkit().nvcc, *FLAGS, *code, "-o", partial, *sources])
        partial.replace(recorder)
    lines = _run([recorder, arch, ARCHS[arch].block_shared_memory]).splitlines()
    fields = [line.split("\t") for line in lines]
    return tuple(
        Launch(case, name, int(blocks), int(threads), int(shared)) for case, name, blocks, threads, shared in fields
    )


@lru_cache
def report(op: str, arch: int) -> Report:
    """Compiles an operation's kernels for an architecture and runs its launch code."""
    compiled, cubin = _compile(op, arch)
    code = machine_code(cubin.read_bytes())
    stubs = frozenset(kernel.name for kernel in compiled if code[kernel.name] == code[EMPTY_KERNEL])
    kernels = {kernel.name: kernel for kernel in compiled if kernel.name not in stubs}
    return Report(kernels, stubs - {EMPTY_KERNEL}, record_launches(op, arch), cubin)


def resident_blocks(arch: int, registers: int, threads: int, shared: int) -> int:
    """Blocks that a multiprocessor holds at a time, as NVIDIA's occupancy calculator counts them."""
    limits = ARCHS[arch]
    warps = -(-threads // 32)
    register_unit, warp_unit, shared_unit = 256, 4, 128
    warp_registers = -(-max(registers, 1) * 32 // register_unit) * register_unit
    register_warps = limits.registers // warp_registers // warp_unit * warp_unit
    block_shared = -(-(shared + limits.reserved) // shared_unit) * shared_unit
    by_shared = limits.shared_memory // block_shared if block_shared else limits.blocks
    return min(limits.blocks, limits.warps // warps, register_warps // warps, by_shared)


def occupancy(arch: int, registers: int, threads: int, shared: int) -> float:
    """Resident warps as a share of the most that a multiprocessor holds."""
    return resident_blocks(arch, registers, threads, shared) * -(-threads // 32) / ARCHS[arch].warps


def faults(report: Report, arch: int) -> list[str]:
    """What must not be: spills, stacks in local memory, blocks that do not fit, launches of kernels without code.

    In kernels that are launched: what is compiled from the same PTX for several architectures includes those that only
    some of them launch.
    """
    found = []
    launched = {launch.name for launch in report.launches}
    for kernel in report.kernels.values():
        if kernel.name not in launched:
            continue
        what = demangle([kernel.name])[kernel.name]
        if kernel.spill_stores or kernel.spill_loads:
            found.append(f"{what} spills: {kernel.spill_stores} bytes stored, {kernel.spill_loads} loaded")
        if kernel.stack:
            found.append(f"{what} has a stack of {kernel.stack} bytes in local memory")
    for launch in report.launches:
        if launch.name not in report.kernels:
            found.append(f"{demangle([launch.name])[launch.name]} is launched, and is for other architectures")
            continue
        kernel = report.kernels[launch.name]
        shared = kernel.static_shared + launch.dynamic_shared
        if shared > ARCHS[arch].block_shared_memory:
            found.append(f"{demangle([launch.name])[launch.name]} asks for {shared} bytes of shared memory")
        elif resident_blocks(arch, kernel.registers, launch.threads, shared) < 1:
            found.append(f"{demangle([launch.name])[launch.name]} does not fit {launch.threads} threads")
    return sorted(set(found))


@lru_cache
def _enumerators() -> dict[tuple[str, int], str]:
    """Names of enumerators, which compilers print as (Math)0."""
    names = {}
    for path in [*CSRC.glob("**/*.cuh"), *CSRC.glob("**/*_launch.h")]:
        for enum, body in re.findall(r"enum class (\w+)[^{;]*\{([^}]*)\}", path.read_text(encoding="utf-8")):
            for i, name in enumerate(re.findall(r"\w+", body)):
                names[enum, i] = name
    return names


def demangle(names: Iterable[str]) -> dict[str, str]:
    """Short readable names of kernels, template arguments without namespaces, by their names in the object file."""
    names = sorted(set(names))
    if shutil.which("c++filt") is None:
        return {name: name for name in names}
    lines = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True).stdout.splitlines()
    short = {}
    for name, line in zip(names, lines, strict=True):
        line = re.sub(
            r"\((?:\w+::)*(\w+)\)(\d+)", lambda m: _enumerators().get((m[1], int(m[2])), f"({m[1]}){m[2]}"), line
        )
        line = re.sub(r"\(.*\)$", "", line.removeprefix("void "))
        short[name] = re.sub(r"(?:\w+::)+", "", line).replace("> >", ">>")
    return short


def find_tool(name: str) -> Path | None:
    """cuobjdump or nvdisasm: of the toolkit, or of a Python package that brings it (nvidia-cuda-cuobjdump, triton)."""
    toolkit = find_toolkit().root / "bin" / name
    candidates = [toolkit, *map(Path, filter(None, [shutil.which(name)]))]
    for folder in dict.fromkeys([*sys.path, sysconfig.get_path("purelib")]):
        for place in (f"nvidia/*/bin/{name}", f"triton/backends/nvidia/bin/{name}"):
            candidates += sorted(Path(folder).glob(place)) if folder else []
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def disassemble(cubin: Path) -> dict[str, str] | None:
    """The machine code of each kernel as text; None where the tools for it are missing."""
    nvdisasm = find_tool("nvdisasm")
    if nvdisasm is None:
        return None
    text = _run([nvdisasm, "-c", cubin])
    parts = re.split(r"^\s*\.section\s+\.text\.(\w+)[^\n]*\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
