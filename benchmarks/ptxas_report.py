"""Compiles the CUDA kernels for all architectures and writes benchmarks/results/ptxas.md. Needs nvcc, no GPU, no torch.

python benchmarks/ptxas_report.py           writes the table
python benchmarks/ptxas_report.py --check   says whether the committed table is that of these sources; needs no nvcc
"""

import argparse
import re
from pathlib import Path

import cuda_kernels
from cuda_kernels import ARCHS, arch_name

TABLE = Path(__file__).resolve().parent / "results" / "ptxas.md"
INTRODUCTION = """\
# The CUDA kernels as compiled

Made by `python benchmarks/ptxas_report.py` with nvcc {version}; no GPU took part. A cell is `registers of a thread,
occupancy`: the share of a multiprocessor's warps that can be resident at a time, from registers, threads and shared
memory and the limits in NVIDIA's CUDA programming guide. Threads and shared memory (static and dynamic) of a block are
what the launch code asks for at SegNet's sizes. A dash: the architecture does not run this kernel or this choice of
tiles. Convolutions on tensor cores run on 9.0 and 10.0 only with `SEGNET_EXT_CUDA_CONV=fused`. Kernels that only other
sizes reach (channels without whole vectors, kernels too large for a tile) come last.

Spills and stacks in local memory:{faults}
"""


def hashes() -> str:
    """The line that ties the table to the sources."""
    return "<!-- sources: " + " ".join(f"{op}={cuda_kernels.source_hash(op)}" for op in cuda_kernels.ops()) + " -->"


def is_current() -> bool:
    """Whether the committed table was made from these sources."""
    return TABLE.is_file() and hashes() in TABLE.read_text(encoding="utf-8").splitlines()


def rows_of(op: str, archs: list[int]) -> dict[tuple[str, str, int, int], dict[int, str]]:
    """{(kernel, case, threads, shared): {arch: cell}}, kernels in the order of their launches."""
    rows: dict[tuple[str, str, int, int], dict[int, str]] = {}
    for arch in archs:
        report = cuda_kernels.report(op, arch)
        names = cuda_kernels.demangle(report.kernels)
        shown = {launch.name for launch in report.launches if launch.case}
        for launch in report.launches:
            if launch.name not in report.kernels or (not launch.case and launch.name in shown):
                continue
            kernel = report.kernels[launch.name]
            shared = kernel.static_shared + launch.dynamic_shared
            part = cuda_kernels.occupancy(arch, kernel.registers, launch.threads, shared)
            key = (names[launch.name], launch.case, launch.threads, shared)
            rows.setdefault(key, {})[arch] = f"{kernel.registers}, {part:.0%}"
    # The sizes of the table's cases come first, and kernels whose sizes make no difference have one row.
    merged: dict[tuple[str, str, int, int], dict[int, str]] = {}
    for (name, case, threads, shared), cells in sorted(rows.items(), key=lambda row: not row[0][1]):
        for other, others in merged.items():
            if (other[0], *other[2:]) == (name, threads, shared) and others == cells:
                if case and case not in other[1].split(", "):
                    merged[other[0], f"{other[1]}, {case}", threads, shared] = merged.pop(other)
                break
        else:
            merged[name, case, threads, shared] = cells
    return dict(sorted(merged.items(), key=lambda row: (not row[0][1], row[0][0])))


def table(archs: list[int]) -> str:
    """The whole page."""
    sources = hashes()
    faults = [
        f"{arch_name(arch)} {op}: {fault}"
        for op in cuda_kernels.ops()
        for arch in archs
        for fault in cuda_kernels.faults(cuda_kernels.report(op, arch), arch)
    ]
    version = cuda_kernels.find_toolkit().version
    listed = " none, on any architecture." if faults == [] else "\n\n- " + "\n- ".join(faults)
    lines = [INTRODUCTION.format(version=version, faults=listed)]
    for op in cuda_kernels.ops():
        lines += [f"## {op}", ""]
        lines += ["| kernel | sizes | threads | shared KiB |" + "".join(f" {arch_name(arch)} |" for arch in archs)]
        lines += ["|---|---|---:|---:|" + "---|" * len(archs)]
        for (name, case, threads, shared), cells in rows_of(op, archs).items():
            row = [f"`{name}`", case or "others", str(threads), f"{shared / 1024:.1f}"]
            row += [cells.get(arch, "-") for arch in archs]
            lines.append("| " + " | ".join(row) + " |")
        lines.append("")
    if hashes() != sources:
        raise RuntimeError("the sources changed while they were compiled: run this again")
    return "\n".join([*lines, sources, ""])


def read_table(text: str) -> list[dict[str, str]]:
    """The rows of such a page: {"op": ..., "kernel": ..., "sizes": ..., "threads": ..., "8.0": "96, 50%", ...}."""
    rows: list[dict[str, str]] = []
    for op, section in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
        header = [cell.strip() for cell in lines[0]]
        rows += [
            {"op": op, **dict(zip(header, (cell.strip().strip("`") for cell in line), strict=True))}
            for line in lines[2:]
        ]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the committed table with the sources' hashes")
    options = parser.parse_args()
    if options.check:
        current = is_current()
        print(f"{TABLE.name} is " + ("current" if current else "stale: run python benchmarks/ptxas_report.py"))
        return 0 if current else 1
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(table(list(ARCHS)), encoding="utf-8")
    print(f"wrote {TABLE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
