"""What cpu_report.py found out, the targets it is held against, and how both are written down."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness import AUTOCAST, baseline, best_peer

from segnet_ext.measure import Cost

MEBI = 2**20
UNDISTURBED = 1.1  # of the fastest probe's time, at most
ENOUGH_TURNS = 5  # undisturbed ones, for a median


@dataclass(frozen=True)
class Row:
    """One group: what ran, and the median seconds of each variant."""

    subject: str  # an op or a model
    direction: str
    case: str  # the name of the shape
    shape: tuple[int, ...]
    dtype: str
    seconds: dict[str, float]
    saved: dict[str, int | None] = field(default_factory=dict)
    multiply_adds: int | None = None
    bytes_moved: int | None = None
    copy_seconds: float | None = None  # of a copy that moves as many bytes
    cold_seconds: dict[str, float] = field(default_factory=dict)  # as seconds, the caches holding other variants' data

    @property
    def best(self) -> str:
        return best_peer(self.seconds)

    @property
    def speedup(self) -> float:
        return self.seconds[self.best] / self.seconds["ours"]

    @property
    def overhead(self) -> float:
        """Seconds more than the best peer."""
        return self.seconds["ours"] - self.seconds[self.best]


@dataclass(frozen=True)
class Turn:
    """One run of a step, and the slower of the probes right before and after it: a product on as many threads."""

    seconds: float
    probe: float


def undisturbed(turns: Sequence[Turn]) -> list[Turn]:
    """The turns in which the machine gave what it can: their probes are near the fastest one's."""
    least = min(turn.probe for turn in turns)
    return [turn for turn in turns if turn.probe <= UNDISTURBED * least]


@dataclass(frozen=True)
class Threads:
    """Turns of one step of ours, or of what shows the machine's own speedup, by the number of threads."""

    model: str
    what: str
    case: str  # "full", "pair" as in bench_models.py, or "machine"
    turns: dict[int, list[Turn]]

    @property
    def seconds(self) -> dict[int, float]:
        """Medians of all turns."""
        return {count: statistics.median(turn.seconds for turn in turns) for count, turns in self.turns.items()}

    @property
    def undisturbed_seconds(self) -> dict[int, float] | None:
        """Medians of the undisturbed turns; None where these are too few."""
        chosen = {count: undisturbed(turns) for count, turns in self.turns.items()}
        if min(len(turns) for turns in chosen.values()) < ENOUGH_TURNS:
            return None
        return {count: statistics.median(turn.seconds for turn in turns) for count, turns in chosen.items()}

    @property
    def speedup(self) -> float:
        """Of the undisturbed turns, or where these are too few of all."""
        return threads_speedup(self.undisturbed_seconds or self.seconds)


def threads_speedup(seconds: dict[int, float]) -> float:
    return seconds[1] / seconds[max(seconds)]


@dataclass(frozen=True)
class Weighed:
    """Costs of one model by implementation, each from a process of its own."""

    model: str
    what: str
    case: str  # "full", "pair" as in bench_models.py; of the scaling curves "pixels" or "batch"
    size: tuple[int, int]
    batch: int
    costs: dict[str, Cost]

    def share(self, figure: str) -> float | None:
        """Ours by the least of torch's."""
        values = {name: getattr(cost, figure) for name, cost in self.costs.items()}
        if any(value is None for value in values.values()):
            return None
        return values["ours"] / max(1, min(value for name, value in values.items() if name != "ours"))


@dataclass
class Results:
    """Everything that one run measured; what it was not asked for is empty."""

    environment: dict[str, object]
    fma_peak: float | None = None  # multiply-adds a second of a large matrix product
    ops: list[Row] = field(default_factory=list)
    small: list[Row] = field(default_factory=list)
    models: list[Row] = field(default_factory=list)
    threads: list[Threads] = field(default_factory=list)
    memory: list[Weighed] = field(default_factory=list)
    checkpointed: list[Weighed] = field(default_factory=list)
    scaling: list[Weighed] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------------------- targets


@dataclass(frozen=True)
class Goal:
    """A bound that every one of ``values`` has to keep. Without values, nothing was measured that it speaks of."""

    text: str
    sign: str  # ">=" or "<=" or "<"
    bound: float
    values: Sequence[float]

    @property
    def worst(self) -> float:
        return min(self.values) if self.sign == ">=" else max(self.values)

    @property
    def verdict(self) -> str:
        if not self.values:
            return "not measured"
        reached = {">=": self.worst >= self.bound, "<=": self.worst <= self.bound, "<": self.worst < self.bound}
        return "reached" if reached[self.sign] else "**not reached**"


def goals(results: Results) -> list[Goal]:
    def speedups(subject: str, direction: str, cases: Iterable[str], dtype: str = "float32") -> list[float]:
        wanted = (subject, direction, dtype)
        return [
            row.speedup
            for row in (*results.ops, *results.models)
            if (row.subject, row.direction, row.dtype) == wanted and row.case in cases
        ]

    def shares(what: str, case: str, figure: str) -> list[float]:
        rows = [row for row in results.memory if (row.model, row.what, row.case) == ("SegNet", what, case)]
        return [share for row in rows if (share := row.share(figure)) is not None]

    unpool, pool = "max_unpool2d_conv2d", "bn_relu_max_pool2d"
    stages = [f"stage{i}" for i in range(1, 6)]
    wide, narrow = stages[2:], stages[:2]  # 256 and 512 channels; 64 and 128
    overheads = [1e6 * row.overhead for row in results.small if row.case == "small"]
    threads = {
        what: [row.speedup for row in results.threads if row.what == what and row.case in ("full", "pair")]
        for what in ("inference", "training step")
    }
    return [
        Goal(f"{unpool} forward, 64 and 128 channels", ">=", 3.0, speedups(unpool, "forward", narrow)),
        Goal(f"{unpool} forward, 256 and 512 channels", ">=", 2.2, speedups(unpool, "forward", wide)),
        Goal(f"{unpool} backward, 64 and 128 channels", ">=", 2.5, speedups(unpool, "backward", narrow)),
        Goal(f"{unpool} backward, 256 and 512 channels", ">=", 2.0, speedups(unpool, "backward", wide)),
        Goal(f"{unpool} forward, bfloat16, 64 and 128", ">=", 1.5, speedups(unpool, "forward", narrow, "bfloat16")),
        Goal(f"{unpool} forward, bfloat16, everywhere", ">=", 1.0, speedups(unpool, "forward", stages, "bfloat16")),
        Goal(
            f"{pool} forward, training and evaluation",
            ">=",
            4.0,
            speedups(pool, "forward", stages) + speedups(pool, "inference", stages),
        ),
        Goal(f"{pool} backward", ">=", 2.5, speedups(pool, "backward", stages)),
        Goal("SegNet inference, 1x3x360x480", ">=", 1.3, speedups("SegNet", "inference", ["full"])),
        Goal("SegNet training step, 2x3x180x240", ">=", 1.3, speedups("SegNet", "training step", ["pair"])),
        Goal("SegNet, kept for backward, of eager's", "<=", 0.5, shares("training", "pair", "saved_bytes")),
        Goal("SegNet inference, peak memory, of eager's", "<=", 0.6, shares("inference", "full", "peak_bytes")),
        Goal("SegNet training step, peak memory, of eager's", "<=", 0.65, shares("training", "pair", "peak_bytes")),
        Goal("SegNet inference, 2 threads against 1", ">=", 1.8, threads["inference"]),
        Goal("SegNet training step, 2 threads against 1", ">=", 1.8, threads["training step"]),
        Goal("call of an op on a small map, microseconds over the best peer's", "<", 30.0, overheads),
    ]


# -------------------------------------------------------------------------------------------------------------- tables


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def time_table(rows: Sequence[Row], unit: str = "ms", overhead: bool = False) -> str:
    scale = {"ms": 1e3, "µs": 1e6}[unit]
    variants = list(dict.fromkeys(variant for row in rows for variant in row.seconds))
    # What sets no record stands last.
    variants.sort(key=lambda name: (name != "ours", name == AUTOCAST))
    saved = any(value for row in rows for value in row.saved.values())
    header = ["", "direction", "shape", *(f"{name} {unit}" for name in variants), "best peer", "best peer / ours"]
    header += ["ours - best peer"] if overhead else []
    header += ["kept for backward, MiB, ours / torch"] if saved else []
    lines = []
    for row in rows:
        label = f"{row.subject} {row.case}" + ("" if row.dtype == "float32" else f" {row.dtype}")
        times = (f"{scale * row.seconds[name]:.2f}" if name in row.seconds else "-" for name in variants)
        line = [label, row.direction, "x".join(map(str, row.shape)), *times, row.best, f"**{row.speedup:.2f}x**"]
        line += [f"{scale * row.overhead:+.1f}"] if overhead else []
        line += [f"{_mebi(row.saved.get('ours'))} / {_mebi(row.saved.get(baseline(row.saved)))}"] if saved else []
        lines.append(line)
    return markdown(header, lines)


def roofline_table(rows: Sequence[Row], fma_peak: float) -> str:
    header = ["", "direction", "multiply-adds of the dense convolution, 10^9", "ours GFLOP/s", "of the peak"]
    header += ["best peer GFLOP/s", "of the peak"]
    lines = []
    for row in rows:
        if row.multiply_adds is None:
            continue
        cells = [f"{row.subject} {row.case} {row.dtype}", row.direction, f"{row.multiply_adds / 1e9:.2f}"]
        for name in ("ours", row.best):
            rate = row.multiply_adds / row.seconds[name]
            cells += [f"{2 * rate / 1e9:.1f}", f"{100 * rate / fma_peak:.0f} %"]
        lines.append(cells)
    return markdown(header, lines)


def copy_rate_table(rows: Sequence[Row]) -> str:
    header = ["", "direction", "MiB to move", "copy_ GB/s", "ours GB/s", "best peer GB/s", "best peer / ours"]
    header += ["at the copy's rate", "cold"]
    lines = []
    for row in rows:
        if row.bytes_moved is None or row.copy_seconds is None:
            continue
        cells = [f"{row.subject} {row.case}", row.direction, _mebi(row.bytes_moved)]
        for seconds in (row.copy_seconds, row.seconds["ours"], row.seconds[row.best]):
            cells.append(f"{row.bytes_moved / seconds / 1e9:.1f}")
        cells += [f"**{row.speedup:.2f}x**", f"{row.seconds[row.best] / row.copy_seconds:.2f}x"]
        cold = row.cold_seconds
        lines.append([*cells, f"{cold[best_peer(cold)] / cold['ours']:.2f}x" if cold else "-"])
    return markdown(header, lines)


def thread_table(rows: Sequence[Threads]) -> str:
    counts = sorted({count for row in rows for count in row.turns})
    titles = [f"{count} thread{'s' * (count > 1)}, ms" for count in counts]
    header = ["", "", *titles, "speedup", *(f"undisturbed {title} (turns)" for title in titles), "speedup"]
    lines = []
    for row in rows:
        line = [row.model, row.what, *(f"{1e3 * row.seconds[count]:.1f}" for count in counts)]
        line.append(f"{threads_speedup(row.seconds):.2f}x")
        chosen = row.undisturbed_seconds
        for count in counts:
            of_all = f"({len(undisturbed(row.turns[count]))} of {len(row.turns[count])})"
            line.append(f"{1e3 * chosen[count]:.1f} {of_all}" if chosen else of_all)
        lines.append([*line, f"**{row.speedup:.2f}x**" if chosen else "too few"])
    return markdown(header, lines)


def memory_table(rows: Sequence[Weighed]) -> str:
    header = ["", "batch and size", "figure"]
    header += [f"{name} MiB" for name in rows[0].costs] + ["ours / least of torch's"]
    figures = {"peak_bytes": "peak", "absolute_peak_bytes": "peak, whole process", "saved_bytes": "kept for backward"}
    lines = []
    for row in rows:
        for figure, title in figures.items():
            values = [getattr(cost, figure) for cost in row.costs.values()]
            if any(value is not None for value in values):
                share = row.share(figure)
                lines.append(
                    [f"{row.model} {row.what}", f"{row.batch} x {row.size[0]}x{row.size[1]}", title]
                    + [_mebi(value) for value in values]
                    + ["-" if share is None else f"**{share:.2f}**"]
                )
    return markdown(header, lines)


def checkpointing_table(rows: Sequence[Weighed]) -> str:
    units = {"ms": "ms", "peak_bytes": "MiB peak", "saved_bytes": "MiB kept for backward"}
    header = ["", "batch and size"]
    for unit in units.values():
        header += [*(f"{name}, {unit}" for name in rows[0].costs), "ratio"]
    lines = []
    for row in rows:
        line = [f"{row.model} training", f"{row.batch} x {row.size[0]}x{row.size[1]}"]
        for figure in units:
            values = [getattr(cost, figure) for cost in row.costs.values()]
            line += [f"{value:.0f}" if figure == "ms" else _mebi(value) for value in values]
            line.append("-" if None in values else f"{values[1] / max(1, values[0]):.2f}")
        lines.append(line)
    return markdown(header, lines)


def scaling_table(rows: Sequence[Weighed]) -> str:
    names = list(rows[0].costs)
    header = ["batch and size", *(f"{name} ms" for name in names), *(f"{name} peak MiB" for name in names)]
    lines = (
        [f"{row.batch} x {row.size[0]}x{row.size[1]}"]
        + [f"{cost.ms:.1f}" for cost in row.costs.values()]
        + [_mebi(cost.peak_bytes) for cost in row.costs.values()]
        for row in rows
    )
    return markdown(header, lines)


def goal_table(results: Results) -> str:
    header = ["target", "needed", "measured, worst", "measured, median", ""]
    lines = []
    for goal in goals(results):
        figures = [f"{f(goal.values):.2f}" if goal.values else "-" for f in (lambda _, g=goal: g.worst, _median)]
        lines.append([goal.text, f"{goal.sign} {goal.bound:g}", *figures, goal.verdict])
    return markdown(header, lines)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _mebi(value: int | None) -> str:
    return "-" if value is None else f"{value / MEBI:.1f}"


# ---------------------------------------------------------------------------------------------------------------- page


def page(results: Results, pictures: Sequence[str]) -> str:
    """The report in markdown. ``pictures``: names of the files beside it."""
    parts = [
        "# segnet_ext on the CPU",
        "`python benchmarks/cpu_report.py` wrote this page; no figure in it was typed. Times are medians of rounds in "
        "which all variants run in turn, after each one's result was compared with plain torch's; what is short "
        "has turns of several runs, the first of which does not count, and a variant that is far behind runs once. "
        "Peaks are measured in processes of their own; the table of memory has the medians of several.",
        markdown(["machine", ""], ([key, str(value)] for key, value in results.environment.items())),
        "## Targets\n\nRatios are those of the best peer's time to ours.",
        goal_table(results),
    ]
    if "cpu.png" in pictures:
        parts.append("![Speedups over the best peer](cpu.png)")
    if results.ops:
        parts += ["## Operations", "float32 unless said otherwise.", time_table(results.ops)]
    if results.ops and results.fma_peak:
        parts += [
            "## Roofline of unpooling and convolution",
            f"The peak, {2 * results.fma_peak / 1e9:.1f} GFLOP/s, is that of a large float32 `torch.mm` on as many "
            "threads. The rates are those of the dense convolution, so leaving out the unpooled map's zeros can take "
            "ours past the peak.",
            roofline_table(results.ops, results.fma_peak),
        ]
    if any(row.copy_seconds for row in results.ops):
        parts += [
            "## Rates of the pools",
            "A pool computes next to nothing, so its bytes are its floor. Beside its rate stands that of a `copy_` "
            "which reads and writes as many bytes on as many threads, and finds them in the same caches; at the "
            "copy's rate is the ratio to the best peer that a pool would have which moved its bytes as fast, its call "
            "for nothing. Between ours and that lie the call, passes that find less in the caches than one copy does, "
            "and fresh memory: a large result's pages are cleared by the system before they are written. Cold is the "
            "ratio to the best peer of runs that follow another variant's at once, and so find its data in the "
            "caches.",
            copy_rate_table(results.ops),
        ]
    if results.small:
        parts += ["## Small maps", "What a call costs.", time_table(results.small, "µs", overhead=True)]
    if results.models:
        parts += [
            "## Models",
            f"float32. Our inference is the frozen model's. {AUTOCAST} computes less precisely, so it is no peer and "
            "does not count as the best one.",
            time_table(results.models),
        ]
    if results.threads:
        parts += [
            "## Threads",
            "Ours, and what this machine's processors give to a large product, to a copy of a large map, and to "
            "filling fresh memory, whose pages the system has to find and clear. A machine that is lent may lend "
            "halves of one core as two processors, or a core whose other half works for somebody else, now and then: "
            "two threads then get much less than twice what one gets. Hence a `torch.mm` is timed right before and "
            "after each run, on as many threads. Undisturbed are the runs whose slower product took at most "
            f"{UNDISTURBED:g} times as long as the fastest one on as many threads: a choice that does not look at "
            "our own times. The targets are held against their medians, or against those of all runs where fewer than "
            f"{ENOUGH_TURNS} were undisturbed.",
            thread_table(results.threads),
        ]
    if results.memory:
        parts += [
            "## Memory",
            "The peak is how far a process grows during its first pass over what it held with the model built: without "
            "the weights, but with their gradients.",
            memory_table(results.memory),
        ]
    if results.checkpointed:
        parts += [
            "With `set_grad_checkpointing()` a training step keeps only the maps between stages for backward, which "
            "makes those inside them again.",
            checkpointing_table(results.checkpointed),
        ]
    if results.scaling:
        parts += ["## Scaling of SegNet's inference"]
        parts += ["![Time and peak memory against size](cpu_scaling.png)"] if "cpu_scaling.png" in pictures else []
        parts += [scaling_table(results.scaling)]
    return "\n\n".join(parts) + "\n"
