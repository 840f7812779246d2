"""Writes what runs of the benchmarks on a GPU measured as a Markdown page.

pytest benchmarks/ --benchmark-only --device cuda --benchmark-json run.json
python benchmarks/cuda_report.py run.json benchmarks/results/h200.md

Several runs, of some of the files each, make one page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
from cpu_results import markdown

# What extra_info says of the run, in the order in which the page tells it.
ENVIRONMENT = ("device", "cuda", "cudnn", "tf32 in convolutions", "torch", "python", "segnet_ext")


def groups(run: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """{"op, shape, direction": {variant: an entry of the file}}, in the order of the file."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for entry in run["benchmarks"]:
        found.setdefault(entry["group"], {})[entry["extra_info"]["variant"]] = entry
    return found


def merged(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One run of all their benchmarks, which must be of one environment."""
    entries = [entry for run in runs for entry in run["benchmarks"]]
    for key in ENVIRONMENT:
        if len(values := {entry["extra_info"][key] for entry in entries}) > 1:
            raise SystemExit(f"the runs differ in {key}: {', '.join(sorted(map(str, values)))}")
    return {"datetime": min(run["datetime"] for run in runs), "benchmarks": entries}


def mebibytes(entry: Mapping[str, Any], key: str) -> str:
    value = entry["extra_info"][key]
    return "-" if value is None else f"{value / 2**20:.1f}"


def row(group: str, entries: Mapping[str, Mapping[str, Any]], variants: Sequence[str]) -> list[str]:
    op, shape, direction = group.rsplit(", ", 2)
    medians = {variant: entry["stats"]["median"] for variant, entry in entries.items()}
    best = harness.best_peer(medians)
    ours, torchs = entries["ours"], entries[harness.baseline(entries)]
    return [
        op,
        shape if shape.endswith("float16") else f"{shape} float32",
        direction,
        *(f"{1e6 * medians[variant]:.0f}" if variant in medians else "-" for variant in variants),
        f"{medians[best] / medians['ours']:.2f}",
        best,
        *(f"{mebibytes(ours, key)} / {mebibytes(torchs, key)}" for key in ("peak_bytes", "saved_bytes")),
    ]


def page(run: Mapping[str, Any]) -> str:
    entries = groups(run)
    variants = list(dict.fromkeys(variant for group in entries.values() for variant in group))
    variants.sort(key=lambda variant: variant != "ours")
    info = run["benchmarks"][0]["extra_info"]
    header = ["op", "shape", "direction", *(f"{variant} µs" for variant in variants), "best / ours", "best"]
    header += ["peak MiB, ours / torch", "kept MiB, ours / torch"]
    peak = info["peak_bytes_is"]
    lines = [
        f"# Measured on {info['device']}",
        "",
        f"Made by `benchmarks/cuda_report.py` from a run of {run['datetime'][:10]}: "
        + ", ".join(f"{key} {info[key]}" for key in ENVIRONMENT)
        + ".",
        "",
        "- Medians by CUDA events of rounds in which the variants run in turn, each with a cold level-2 cache and a"
        " queue that is already filled: what the GPU takes, not what the CPU takes to call it.",
        "- Results were compared with torch's before they were timed. float32 convolutions are in tf32 where torch's"
        " switch says so.",
        "- best: the fastest of the others; above 1, ours is faster.",
        f"- peak: {peak}. kept: what autograd holds between forward and backward, parameters not counted.",
        "",
        markdown(header, [row(group, variants_of, variants) for group, variants_of in entries.items()]).rstrip(),
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+", help="what --benchmark-json wrote")
    parser.add_argument("page", type=Path, help="the Markdown file to write")
    options = parser.parse_args(arguments)
    options.page.write_text(page(merged([json.loads(run.read_text(encoding="utf-8")) for run in options.run])), "utf-8")


if __name__ == "__main__":
    main()
