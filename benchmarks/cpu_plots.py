"""The two pictures of cpu_report.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from cpu_results import MEBI, Results, Row, Weighed
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

FASTER, SLOWER = "#0b6e99", "#b33a3a"
COLORS = {"ours": FASTER, "torch": "#d9822b", "torch channels_last": "#7a5195"}


def speedup_chart(results: Results, file: Path) -> None:
    """A bar for each group: how many times faster than its best peer ours is."""
    rows = [*results.models, *results.ops]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        title = f"{row.subject} {row.direction}" + ("" if row.dtype == "float32" else f", {row.dtype}")
        groups.setdefault(title, []).append(row)
    places, labels, bars, titles, y = [], [], [], [], 0.0
    for title, members in groups.items():
        titles.append((y, title))
        for row in members:
            y += 1
            places.append(y)
            labels.append(row.case)
            bars.append(row)
        y += 1.6
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.2 * y), layout="constrained")
    speedups = [row.speedup for row in bars]
    colors = [FASTER if speedup >= 1 else SLOWER for speedup in speedups]
    axes.barh(places, [speedup - 1 for speedup in speedups], height=0.8, left=1, color=colors)
    beside = {"textcoords": "offset points", "va": "center"}
    for place, row in zip(places, bars, strict=True):
        axes.annotate(f"{row.speedup:.2f}x  {row.best}", (max(row.speedup, 1), place), (4, 0), size=7, **beside)
    for place, title in titles:
        axes.annotate(title, (0, place), (4, 0), ("axes fraction", "data"), size=8, weight="bold", **beside)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(places, labels, size=7)
    axes.set_ylim(y - 0.6, -0.9)
    axes.set_xscale("log", base=2)
    # Room for the titles on the left and for the names behind the bars.
    axes.set_xlim(0.8 * min(0.45, *speedups), 1.8 * max(2, *speedups))
    _plain_ticks(axes.xaxis)
    axes.set_xlabel("times faster than the best peer, which is named behind the bar")
    axes.set_title(f"segnet_ext, {results.environment['device']}, {_threads(results.environment['threads'])}", size=10)
    axes.legend(handles=[Patch(color=FASTER, label="faster"), Patch(color=SLOWER, label="slower")], loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, file)


def scaling_chart(rows: Sequence[Weighed], threads: int, file: Path) -> None:
    """Time and peak memory of SegNet's inference against pixels and against batch."""
    figure, grid = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    for column, kind in enumerate(("pixels", "batch")):
        points = [row for row in rows if row.case == kind]
        xs = [row.size[0] * row.size[1] if kind == "pixels" else row.batch for row in points]
        names = [f"{row.size[0]}²" if kind == "pixels" else str(row.batch) for row in points]
        for line, (unit, figure_of) in enumerate({"time, ms": _time, "peak memory, MiB": _peak}.items()):
            axes: Axes = grid[line][column]
            for name in points[0].costs if points else ():
                values = [figure_of(row, name) for row in points]
                axes.plot(xs, values, marker="o", color=COLORS[name], label=name)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(xs, names)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            _plain_ticks(axes.yaxis)
            axes.set_ylabel(unit)
            size = "" if kind == "pixels" or not points else f" of {points[0].size[0]}x{points[0].size[1]}"
            axes.set_xlabel("image of n x n pixels" if kind == "pixels" else f"images{size} at a time")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            if points:
                axes.legend(fontsize=8)
    figure.suptitle(f"SegNet inference, float32, {_threads(threads)}")
    _save(figure, file)


def _time(row: Weighed, name: str) -> float:
    return row.costs[name].ms


def _peak(row: Weighed, name: str) -> float:
    """Nothing is drawn where the system does not tell."""
    peak = row.costs[name].peak_bytes
    return float("nan") if peak is None else peak / MEBI


def _plain_ticks(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _threads(count: object) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"


def _save(figure: plt.Figure, file: Path) -> None:
    figure.savefig(file, dpi=130)
    plt.close(figure)
