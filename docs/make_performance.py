"""Writes docs/performance.md from performance.template.md: the roofline of every CUDA kernel, beside plain torch.

Nothing is measured: roofline.py computes the numbers, and benchmarks/results/ptxas.md has the kernels' registers.

python docs/make_performance.py            writes docs/performance.md
python docs/make_performance.py --check    says whether it is up to date
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import ptxas_report
from roofline import (
    DTYPE_NAMES,
    GIGA,
    GPUS,
    KERNEL,
    STEPS,
    TERA,
    Sizes,
    Step,
    conv_forward,
    find,
    floor,
    ratios,
    stages,
)

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "performance.md"

# What mma.sync reaches of the H100's dense peak, which is that of wgmma: Luo et al., arXiv:2402.13499.
MMA_SYNC_SHARE = 0.63


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    line = "|" + "---|" * text_columns + "---:|" * (len(header) - text_columns)
    return "\n".join(["| " + " | ".join(cells) + " |" if cells else line for cells in (header, (), *rows)])


def number(value: float) -> str:
    """Three digits."""
    digits = 0 if value >= 99.5 else 1 if value >= 9.95 else 2
    return f"{value:,.{digits}f}"


def by_gpu(values: Sequence[float]) -> str:
    return " / ".join(map(number, values))


def comparison(step: Step, dtype: str) -> str:
    header = ["stage", "ours MB", "torch MB", "GFLOP"]
    header += [f"{gpu.name}: ours / torch µs" for gpu in GPUS] + ["torch / ours, " + " / ".join(g.name for g in GPUS)]
    rows = []
    sums = {gpu.name: [0.0, 0.0] for gpu in GPUS}
    for stage in stages():
        sizes = Sizes(stage, step.batch, dtype)
        ours, theirs = step.ours(sizes), step.torchs(sizes)
        floors = [
            tuple(floor(plan, stage, step.batch, gpu, dtype) for plan in (step.ours, step.torchs)) for gpu in GPUS
        ]
        for gpu, pair in zip(GPUS, floors, strict=True):
            sums[gpu.name] = [a + b for a, b in zip(sums[gpu.name], pair, strict=True)]
        rows.append(
            [
                f"{stage.number}: {step.batch}x{stage.channels}x{stage.height}x{stage.width}",
                number(sum(work.bytes for work in ours) / 1e6),
                number(sum(work.bytes for work in theirs) / 1e6),
                number(sum(work.operations for work in ours) / 1e9),
                *(by_gpu(pair) for pair in floors),
                by_gpu([b / a for a, b in floors]),
            ]
        )
    rows.append(
        [
            "all",
            "",
            "",
            "",
            *(by_gpu(sums[g.name]) for g in GPUS),
            by_gpu([sums[g.name][1] / sums[g.name][0] for g in GPUS]),
        ]
    )
    return table(header, rows, 1)


def kernel_table(dtype: str) -> str:
    header = ["kernel", "stage", "MB", "GFLOP", "FLOP a byte"]
    header += [f"{gpu.name} µs" for gpu in GPUS] + ["limiter, " + " / ".join(gpu.name for gpu in GPUS)]
    rows = []
    for step in STEPS:
        if step.batch == 1:
            continue
        for i in range(len(step.ours(Sizes(stages()[0], 1, dtype)))):
            for stage in stages():
                work = step.ours(Sizes(stage, step.batch, dtype))[i]
                rows.append(
                    [
                        f"{step.op} {work.name}",
                        str(stage.number),
                        number(work.bytes / 1e6),
                        number(work.operations / 1e9),
                        number(work.operations / work.bytes),
                        *(number(work.floor(gpu, dtype)) for gpu in GPUS),
                        " / ".join(work.limiter(gpu, dtype) for gpu in GPUS),
                    ]
                )
    return table(header, rows, 1)


def saved_table() -> str:
    """Bytes kept for backward."""
    header = ["stage", "encoder end: ours", "torch", "decoder start: ours", "torch", "codes", "indices"]
    rows = []
    for stage in stages():
        s = Sizes(stage, 4, "fp16")
        # torch keeps BatchNorm's input, the rectified map (of ReLU and of the pool) and the indices; then the indices
        # again, the same tensor, and the unpooled map.
        cells = [s.map + s.codes, 2 * s.map + s.indices, s.pooled + s.codes, s.map + s.indices, s.codes, s.indices]
        rows.append([str(stage.number), *(number(value / 1e6) for value in cells)])
    return table(header, rows, 1)


def sparse_table() -> str:
    """The forward convolution if its matrix instructions took 2 (k² + 1) / 2 / k² of the dense time."""
    columns = (KERNEL**2 + 1) / 2
    gain = KERNEL**2 / columns
    header = ["stage"] + [f"{gpu.name}: dense / 2:4 µs" for gpu in GPUS] + ["gain"]
    rows = []
    for stage in stages():
        work = conv_forward(Sizes(stage, 4, "fp16"))[0]
        pairs = [(work.floor(gpu, "fp16"), work.floor(gpu, "fp16", gain)) for gpu in GPUS]
        rows.append([str(stage.number), *map(by_gpu, pairs), by_gpu([a / b for a, b in pairs])])
    return table(header, rows, 1)


# The kernels of SegNet's sizes in benchmarks/results/ptxas.md, by what a row must contain.
OCCUPANCY_OF = [
    ("bn_relu_max_pool2d", "stats_kernel"),
    ("bn_relu_max_pool2d", "forward_kernel"),
    ("bn_relu_max_pool2d", "backward_reduce_kernel"),
    ("bn_relu_max_pool2d", "backward_input_kernel"),
    ("max_pool2d_with_codes", "forward_kernel"),
    ("max_pool2d_with_codes", "backward_kernel"),
    ("max_unpool2d_conv2d", "convolve_kernel"),
    ("max_unpool2d_conv2d", "grad_weight_kernel"),
]


def occupancy_table() -> str:
    if not ptxas_report.TABLE.is_file():
        return "benchmarks/results/ptxas.md is not there; `python benchmarks/ptxas_report.py` makes it."
    rows = []
    for row in ptxas_report.read_table(ptxas_report.TABLE.read_text(encoding="utf-8")):
        kind = row["kernel"].partition("<")[0]
        cells = [row.get(gpu.arch, "") for gpu in GPUS]
        left_out = any(text in row["kernel"] for text in ("kMultiplyAdd", "double", "unsigned long"))
        wanted = not left_out and row["sizes"] != "others"
        if (row["op"], kind) in OCCUPANCY_OF and wanted and any("," in cell for cell in cells):
            rows.append([f"{row['op']} `{row['kernel']}`", row["sizes"], row["threads"], row["shared KiB"], *cells])
    header = ["kernel", "sizes", "threads", "shared KiB", *(f"{gpu.name} ({gpu.arch})" for gpu in GPUS)]
    return table(header, rows, 2)


def range_of(op: str, direction: str, dtype: str, batch: int = 4) -> str:
    """The smallest and largest ratio of torch's floor to ours over stages and GPUs."""
    values = ratios(find(op, direction, batch), dtype)
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def mma_sync_table() -> str:
    """The convolutions on an H100, ours by mma.sync and cuDNN's by wgmma."""
    gpu = next(gpu for gpu in GPUS if gpu.name == "H100")
    header = ["stage", "forward: ours µs", "torch µs", "torch / ours", "backward: ours µs", "torch µs", "torch / ours"]
    rows = []
    for stage in stages():
        cells = []
        for direction in ("forward", "backward"):
            step = find("max_unpool2d_conv2d", direction)
            ours = floor(step.ours, stage, step.batch, gpu, "fp16", MMA_SYNC_SHARE)
            theirs = floor(step.torchs, stage, step.batch, gpu, "fp16")
            cells += [number(ours), number(theirs), number(theirs / ours)]
        rows.append([str(stage.number), *cells])
    return table(header, rows, 1)


def limiter_counts() -> str:
    """How often memory limits a convolution kernel, of all stages, GPUs, directions, batches and dtypes."""
    limiters = [
        work.limiter(gpu, dtype)
        for step in STEPS
        if step.op == "max_unpool2d_conv2d"
        for dtype in DTYPE_NAMES
        for stage in stages()
        for work in step.ours(Sizes(stage, step.batch, dtype))
        for gpu in GPUS
    ]
    return f"{limiters.count('memory')} of {len(limiters)}"


def page() -> str:
    text = (DOCS / "performance.template.md").read_text(encoding="utf-8")
    peaks = table(
        ["GPU", "memory GB/s", "float32 TFLOP/s", "tf32", "fp16, bf16", "level-2 MB", "source"],
        [
            [
                gpu.name,
                f"{gpu.bandwidth / GIGA:.0f}",
                f"{gpu.float32 / TERA:.1f}",
                *(f"{rate / TERA:.1f}" for rate in gpu.tensor.values()),
                f"{gpu.cache / 2**20:.0f}",
                gpu.source,
            ]
            for gpu in GPUS
        ],
        1,
    )
    details = []
    for dtype, name in DTYPE_NAMES.items():
        details += [f"### {name}", ""]
        for step in STEPS:
            details += [f"**{step.op}, {step.direction}, batch {step.batch}**", "", comparison(step, dtype), ""]
    kernels = []
    for dtype, name in DTYPE_NAMES.items():
        kernels += [f"### {name}", "", kernel_table(dtype), ""]
    values = {
        "peaks": peaks,
        "details": "\n".join(details).strip(),
        "kernels": "\n".join(kernels).strip(),
        "saved": saved_table(),
        "sparse": sparse_table(),
        "mma_sync": mma_sync_table(),
        "mma_sync_share": f"{MMA_SYNC_SHARE:.0%}",
        "occupancy": occupancy_table(),
        "pool_inference": range_of("bn_relu_max_pool2d", "inference", "fp16", 1),
        "pool_inference_32": range_of("bn_relu_max_pool2d", "inference", "tf32", 1),
        "pool_training": range_of("bn_relu_max_pool2d", "training forward", "fp16"),
        "pool_backward": range_of("bn_relu_max_pool2d", "backward", "fp16"),
        "conv_forward": range_of("max_unpool2d_conv2d", "forward", "fp16"),
        "conv_forward_32": range_of("max_unpool2d_conv2d", "forward", "tf32"),
        "conv_backward": range_of("max_unpool2d_conv2d", "backward", "fp16"),
        "memory_limited": limiter_counts(),
        "sparse_gain": f"{2 * KERNEL**2 / (KERNEL**2 + 1):.1f}",
    }
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", value)
    if "{{" in text:
        raise ValueError("performance.template.md has a place that is not filled: " + text.partition("{{")[2][:40])
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the page with what would be written")
    if parser.parse_args().check:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        print(f"{PAGE.name} is " + ("current" if current else "stale: run python docs/make_performance.py"))
        return 0 if current else 1
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
