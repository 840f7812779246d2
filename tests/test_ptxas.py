"""The CUDA kernels as nvcc compiles them: no spills, no local memory, blocks that fit, the instructions that are meant.

The oldest architecture, the first with all matrix instructions and the newest by default;
``SEGNET_EXT_PTXAS_ARCHS=all`` (or such as ``75,90``) chooses others. The table benchmarks/results/ptxas.md is compared
with the sources even where there is no nvcc.
"""

import os
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import cuda_kernels
import ptxas_report

OPS = cuda_kernels.ops()
CHOICE = os.environ.get("SEGNET_EXT_PTXAS_ARCHS", "75,80,120")
ARCHS = list(cuda_kernels.ARCHS) if CHOICE == "all" else [int(arch) for arch in CHOICE.split(",")]
EVERY_OP = pytest.mark.parametrize("op", OPS)
EVERY_ARCH = pytest.mark.parametrize("arch", ARCHS, ids=cuda_kernels.arch_name)


@pytest.fixture(scope="module")
def toolkit():
    """nvcc, which compiles but does not run: no GPU is needed."""
    try:
        return cuda_kernels.find_toolkit()
    except cuda_kernels.toolchain.ToolchainError as error:
        pytest.skip(str(error))


def compile_for(toolkit, op, arch):
    if divmod(arch, 10) not in toolkit.archs:
        pytest.skip(f"nvcc {toolkit.version} does not compile for {cuda_kernels.arch_name(arch)}")
    return cuda_kernels.report(op, arch)


@pytest.fixture
def report(toolkit, op, arch):
    return compile_for(toolkit, op, arch)


def test_every_operation_with_kernels_is_looked_at():
    assert [path.parent.name for path in sorted(cuda_kernels.CSRC.glob("*/*_cuda.cu"))] == OPS


@pytest.mark.slow
@EVERY_OP
@EVERY_ARCH
def test_kernels_neither_spill_nor_ask_for_too_much(report, arch):
    assert report.kernels
    assert cuda_kernels.faults(report, arch) == []


@pytest.mark.slow
@EVERY_OP
def test_every_kernel_is_launched_somewhere(toolkit, op):
    reports = [cuda_kernels.report(op, arch) for arch in ARCHS if divmod(arch, 10) in toolkit.archs]
    compiled = {name for report in reports for name in report.kernels}
    launched = {launch.name for report in reports for launch in report.launches}
    never = sorted(cuda_kernels.demangle(compiled - launched).values())
    if set(ARCHS) >= {75, 80}:  # between them they run everything
        assert never == []


def test_the_table_is_that_of_these_sources():
    assert ptxas_report.is_current(), "run python benchmarks/ptxas_report.py"
    assert "Spills and stacks in local memory: none" in ptxas_report.TABLE.read_text(encoding="utf-8")


@pytest.mark.slow
@EVERY_OP
@EVERY_ARCH
def test_the_table_shows_what_was_compiled(toolkit, report, op, arch):
    text = ptxas_report.TABLE.read_text(encoding="utf-8")
    if f"nvcc {toolkit.version};" not in text:
        pytest.skip(f"the table was made with another nvcc than {toolkit.version}")
    column = cuda_kernels.arch_name(arch)
    shown = {
        (row["kernel"], row["threads"], row["shared KiB"]): row[column]
        for row in ptxas_report.read_table(text)
        if row["op"] == op and "," in row[column]
    }
    compiled = {
        (name, str(threads), f"{shared / 1024:.1f}"): cells[arch]
        for (name, _, threads, shared), cells in ptxas_report.rows_of(op, [arch]).items()
    }
    assert shown == compiled


# ---- instructions ---------------------------------------------------------------------------------------------------

# Kernels that write whole maps, and all they may store: 16 bytes of a map, or the codes of a thread's channels.
MAP_KERNELS = r"(forward|backward|backward_input|gather|add)_kernel<[\w ]+, true>"
STORES_OF_MAPS = {"128", "U16", "U8"}
# Kernels that sum over maps.
READING_KERNELS = r"(stats|backward_reduce|grad)_kernel<[\w ]+, true>"
# Kernels that multiply on tensor cores, and what they must have.
MATRIX_KERNELS = {
    r"convolve_kernel<ConvTraits<half, kTensorCores75, .*": ["HMMA.1688.F32", "LDSM", "LDG.E.128"],
    r"grad_weight_kernel<GradWeightTraits<half, kTensorCores75>.*": ["HMMA.1688.F32", "LDSM", "LDG.E.128"],
    r"convolve_kernel<ConvTraits<half, kTensorCores, .*": [
        "HMMA.16816.F32",
        "LDSM",
        "LDGSTS",
        "LDG.E.128",
        "STG.E.128",
    ],
    r"convolve_kernel<ConvTraits<bfloat16, kTensorCores, .*": ["HMMA.16816.F32.BF16", "LDSM", "LDGSTS", "LDG.E.128"],
    r"convolve_kernel<ConvTraits<float, kTensorCores, .*": ["HMMA.1688.F32.TF32", "LDSM", "LDGSTS", "LDG.E.128"],
    r"grad_weight_kernel<GradWeightTraits<half, kTensorCores>.*": ["HMMA.16816.F32", "LDSM", "LDG.E.128"],
    r"grad_weight_kernel<GradWeightTraits<bfloat16, kTensorCores>.*": ["HMMA.16816.F32.BF16", "LDSM", "LDG.E.128"],
    r"grad_weight_kernel<GradWeightTraits<float, kTensorCores>.*": ["HMMA.1688.F32.TF32", "LDG.E.128"],
}


def read_machine_code(toolkit, op, arch):
    """By readable kernel name."""
    code = cuda_kernels.disassemble(compile_for(toolkit, op, arch).cubin)
    if code is None:
        pytest.skip("no nvdisasm: neither in the CUDA toolkit nor from pip install nvidia-cuda-nvdisasm")
    names = cuda_kernels.demangle(code)
    return {names[name]: text for name, text in code.items()}


@pytest.mark.slow
@pytest.mark.parametrize("op", ["bn_relu", "bn_relu_max_pool2d", "conv_bias", "max_pool2d_with_codes"])
def test_maps_are_moved_16_bytes_at_a_time(toolkit, op):
    machine_code = read_machine_code(toolkit, op, 80)
    kernels = {name: text for name, text in machine_code.items() if re.fullmatch(MAP_KERNELS, name)}
    assert len(kernels) >= 4
    for name, text in kernels.items():
        assert "LDG.E.128" in text, name
        stores = set(re.findall(r"\bSTG?\.E\.?(\w*)", text))
        assert "128" in stores and stores <= STORES_OF_MAPS, f"{name} stores {sorted(stores)}"
    sums = {name: text for name, text in machine_code.items() if re.fullmatch(READING_KERNELS, name)}
    assert len(sums) >= 4 or op == "max_pool2d_with_codes"
    for name, text in sums.items():
        assert "LDG.E.128" in text, name


@pytest.mark.slow
@pytest.mark.parametrize("op", ["max_unpool2d_conv2d"])
@pytest.mark.parametrize("pattern", MATRIX_KERNELS)
def test_convolutions_use_the_matrix_instructions(toolkit, op, pattern):
    machine_code = read_machine_code(toolkit, op, 75 if "kTensorCores75" in pattern else 80)
    kernels = {name: text for name, text in machine_code.items() if re.fullmatch(pattern, name)}
    assert kernels
    for name, text in kernels.items():
        for instruction in MATRIX_KERNELS[pattern]:
            assert re.search(rf"\b{re.escape(instruction)}\b", text), f"{name} has no {instruction}"
        assert not re.search(r"\b(LDL|STL)\b", text), f"{name} uses local memory"


# ---- the instruments ------------------------------------------------------------------------------------------------


def test_reports_of_ptxas_are_understood():
    text = """ptxas info    : Compiling entry function '_Z1fv' for 'sm_80'
ptxas info    : Function properties for _Z1fv
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 8 bytes cumulative stack size, 2048 bytes smem, 368 bytes cmem[0]
ptxas info    : Compiling entry function '_Z1gv' for 'sm_80'
ptxas info    : Function properties for _Z1gv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, 352 bytes cmem[0]
"""
    assert cuda_kernels.parse_ptxas(text) == [
        cuda_kernels.Compiled("_Z1fv", 255, 2048, 8, 4, 12),
        cuda_kernels.Compiled("_Z1gv", 8, 0, 0, 0, 0),
    ]


def test_faults_are_found(tmp_path):
    kernels = {
        "spilling": cuda_kernels.Compiled("spilling", 255, 0, 8, 4, 4),
        "large": cuda_kernels.Compiled("large", 32, 1024, 0, 0, 0),
        "wide": cuda_kernels.Compiled("wide", 128, 0, 0, 0, 0),
    }
    launches = (
        cuda_kernels.Launch("", "large", 1, 128, 64 * 1024),
        cuda_kernels.Launch("", "wide", 1, 1024, 0),
        cuda_kernels.Launch("", "spilling", 1, 128, 0),
        cuda_kernels.Launch("", "stub", 1, 32, 0),
    )
    report = cuda_kernels.Report(kernels, frozenset({"stub"}), launches, tmp_path)
    found = "\n".join(cuda_kernels.faults(report, 75))
    for text in (
        "spilling spills",
        "spilling has a stack",
        "large asks for 66560",
        "wide does not fit",
        "stub is launched",
    ):
        assert text in found


@pytest.mark.parametrize(
    ("arch", "registers", "threads", "shared", "expected"),
    [
        (80, 32, 256, 0, 1.0),
        (80, 64, 256, 0, 0.5),  # 32 warps of 64 registers fill the register file
        (80, 128, 128, 0, 0.25),
        (80, 32, 128, 48 * 1024, 12 / 64),  # 49 KiB with the reserved one: three blocks in 164
        (75, 32, 256, 32 * 1024, 0.5),  # two blocks in 64 KiB, none of it reserved
        (86, 32, 64, 0, 32 / 48),  # 16 blocks at most
        (90, 255, 128, 0, 8 / 64),
    ],
)
def test_occupancy_is_that_of_the_calculator(arch, registers, threads, shared, expected):
    assert cuda_kernels.occupancy(arch, registers, threads, shared) == expected


def test_hashes_ignore_comments_and_layout(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda_kernels, "DRIVERS", tmp_path)
    (tmp_path / "recorder.cpp").write_text("int main() {}")
    hashes = []
    for text in ('#include "x.h"\nint  a; // one', '#include "x.h"\nint a; /* two */', '#include "x.h"\nint b;'):
        (tmp_path / "op.cu").write_text(text)
        hashes.append(cuda_kernels.source_hash("op"))
    (tmp_path / "x.h").write_text("int c;")
    hashes.append(cuda_kernels.source_hash("op"))
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3
