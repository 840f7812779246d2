"""The SegNet paper's comparison: what SegNet, DeepLab-LargeFOV, FCN and DeconvNet cost, and how well they do.

Costs are measured on the CPU, each figure's pass in a process of its own, of the models here and of the same networks
in plain torch (:mod:`segnet_ext.reference`). The paper's own figures (Tables 3 and 6) come from a GPU and another
framework, so costs are compared as ratios to SegNet's.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import torch

import segnet_ext
from segnet_ext._files import write_atomically
from segnet_ext.checkpoint import MODEL_TYPES
from segnet_ext.errors import InputError
from segnet_ext.measure import Cost, measure_apart, processor

# What is measured of a network, and the titles of the figures. Megabytes are 10^6 bytes.
COSTS = {
    "forward_ms": "forward ms",
    "backward_ms": "backward ms",
    "training_mb": "training MB",
    "inference_mb": "inference MB",
    "model_mb": "model MB",
}
ACCURACIES = {"global_accuracy": "G", "class_average": "C", "mean_iou": "mIoU", "boundary_f1": "BF"}
# Rows of the table: the name in it -> the name that measure_apart knows.
IMPLEMENTATIONS = {"ours": "ours", "plain torch": "torch channels_last"}
PAPER = "paper"
BASE = "segnet"  # what ratios are to


@dataclass(frozen=True)
class Network:
    """A network of the paper's, with its figures there.

    Attributes:
        title: as the paper writes it.
        costs: Table 6, in the order of ``COSTS``; None where the table has no such row.
        accuracies: Table 3 (CamVid, 3,433 training images), in percent, in the order of ``ACCURACIES``.
    """

    title: str
    costs: tuple[float, ...] | None
    accuracies: tuple[float, ...]


NETWORKS = {
    "segnet": Network("SegNet", (422.5, 488.7, 6803, 1052, 117), (90.40, 71.20, 60.10, 46.84)),
    "deeplab-largefov": Network("DeepLab-LargeFOV", (110.1, 160.7, 5618, 1993, 83), (88.20, 62.53, 53.88, 32.77)),
    "fcn": Network("FCN", (317.1, 484.1, 9735, 1806, 539), (83.27, 59.56, 49.83, 27.99)),
    "fcn-learnt-deconv": Network("FCN (learnt deconv)", None, (83.14, 64.21, 51.96, 33.18)),
    "deconvnet": Network("DeconvNet", (474.7, 602.2, 9731, 1872, 877), (89.58, 70.24, 59.77, 52.23)),
}


@dataclass(frozen=True)
class Plan:
    """What is measured: size (height, width) of the images, batch of the training memory, CPU threads."""

    models: tuple[str, ...]
    size: tuple[int, int]
    batch: int
    threads: int


@dataclass(frozen=True)
class Measured:
    """The costs of one network in one implementation. Memory is None where the system does not tell.

    Attributes:
        forward_ms, backward_ms: of a training step on one image, in milliseconds; the loss is in the backward pass.
        training_mb: weights, gradients and all that a training step on the batch takes, without an optimizer.
        inference_mb: weights and all that the forward pass of one image takes, in evaluation mode.
        inference_ms: that pass.
        model_mb: the weights and BatchNorm's statistics.
    """

    forward_ms: float
    backward_ms: float
    training_mb: float | None
    inference_mb: float | None
    inference_ms: float
    model_mb: float


@dataclass(frozen=True)
class Run:
    """What a network that was trained with one seed reached on val, in fractions.

    Attributes:
        scores: under the keys of ``ACCURACIES``, after the last epoch.
        class_iou: by name of the class, after the last epoch; None for a class that is not in val.
        mean_iou: after each epoch.
    """

    scores: Mapping[str, float]
    class_iou: Mapping[str, float | None]
    mean_iou: Sequence[float]


Costs = Mapping[str, Mapping[str, Measured]]  # by network and implementation
Runs = Mapping[str, Sequence[Run]]  # by network, of each seed


def model_bytes(name: str) -> int:
    """Bytes of the parameters and buffers of a network of 11 classes in float32."""
    with torch.device("meta"):
        model = MODEL_TYPES[name].build(11)
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def measure_networks(plan: Plan, store: Path, say: Callable[[str], None]) -> dict[str, dict[str, Measured]]:
    """Measures each network of the plan in each implementation.

    Args:
        plan: what to measure.
        store: a JSON file of what was measured before. What is in it with the same settings is not measured again; what
            is measured is added to it at once, so a run that was cut off goes on from there.
        say: takes a line about progress.

    Raises:
        InputError: a process failed, or ``store`` cannot be read or written.
    """
    found = _Store(store, plan, say)
    return {
        name: {title: _measure_network(found, plan, name, title) for title in IMPLEMENTATIONS} for name in plan.models
    }


def _measure_network(found: _Store, plan: Plan, name: str, title: str) -> Measured:
    step = found.cost("training", title, name, batch=1)
    training = found.cost("training", title, name, plan.batch)
    inference = found.cost("evaluation", title, name, batch=1)
    assert step.forward_ms is not None
    weights = model_bytes(name)

    def megabytes(peak: int | None) -> float | None:
        return None if peak is None else (peak + weights) / 1e6

    return Measured(
        forward_ms=step.forward_ms,
        backward_ms=step.ms - step.forward_ms,
        training_mb=megabytes(training.peak_bytes),
        inference_mb=megabytes(inference.peak_bytes),
        inference_ms=inference.ms,
        model_mb=weights / 1e6,
    )


class _Store:
    """Costs on the disk, by what they are of."""

    def __init__(self, path: Path, plan: Plan, say: Callable[[str], None]) -> None:
        self.path, self.plan, self.say = path, plan, say
        try:
            content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            self.costs = {str(key): Cost(**cost) for key, cost in content.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is not what segnet-ext compare writes: remove it, or give another --out"
            ) from error

    def cost(self, what: str, title: str, name: str, batch: int) -> Cost:
        plan = self.plan
        about = f"{name}, {title}: {what}, {batch} x {plan.size[0]}x{plan.size[1]}"
        key = f"{about}, {plan.threads} threads, torch {torch.__version__}, segnet_ext {segnet_ext.__version__}"
        if key in self.costs:
            self.say(f"{about}: as in {self.path}")
            return self.costs[key]
        self.say(about)
        try:
            cost = measure_apart(what, IMPLEMENTATIONS[title], name, plan.size, batch, plan.threads)
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [""])[-1]
            raise InputError(f"{about} failed; a smaller --size or --batch-size takes less memory: {reason}") from error
        self.costs[key] = cost
        content = json.dumps({key: asdict(cost) for key, cost in self.costs.items()}, indent=1) + "\n"
        write_atomically(self.path, lambda file: file.write(content.encode()))
        return cost


# --------------------------------------------------------------------------------------------------------- what is told


def rows(costs: Costs) -> list[tuple[str, str, dict[str, float | None]]]:
    """(network, implementation, figures under the keys of ``COSTS``), the paper's own after ours and plain torch's."""
    found = []
    for name, measured in costs.items():
        for title, figures in measured.items():
            found.append((name, title, {key: getattr(figures, key) for key in COSTS}))
        paper = NETWORKS[name].costs
        if paper is not None:
            found.append((name, PAPER, dict(zip(COSTS, paper, strict=True))))
    return found


def ratios(costs: Costs) -> list[tuple[str, str, dict[str, float | None]]]:
    """``rows``, each figure divided by SegNet's of the same implementation."""
    base = {title: figures for name, title, figures in rows(costs) if name == BASE}

    def ratio(value: float | None, of: float | None) -> float | None:
        return None if value is None or not of else value / of

    return [
        (name, title, {key: ratio(value, base[title][key]) for key, value in figures.items()})
        for name, title, figures in rows(costs)
        if name != BASE
    ]


def mean_scores(trained: Runs) -> dict[str, dict[str, float]]:
    """The mean over the seeds, in percent."""
    return {
        name: {key: 100 * statistics.fmean(run.scores[key] for run in runs) for key in ACCURACIES}
        for name, runs in trained.items()
    }


def order(values: Mapping[str, float]) -> list[str]:
    """The names, highest value first."""
    return sorted(values, key=lambda name: -values[name])


def disagreements(ours: Mapping[str, float], paper: Mapping[str, float]) -> list[tuple[str, str]]:
    """Pairs (a, b) of names of which a is above b in the paper, and not here."""
    ranked = order({name: paper[name] for name in ours})
    return [(a, b) for i, a in enumerate(ranked) for b in ranked[i + 1 :] if ours[a] <= ours[b]]


def csv_text(costs: Costs, trained: Runs) -> str:
    """A line for each network and implementation, the paper's figures among them; empty where there is none."""
    text = io.StringIO()
    table = csv.DictWriter(text, ["network", "implementation", *COSTS, "inference_ms", *ACCURACIES])
    table.writeheader()
    means = mean_scores(trained)
    for name, measured in costs.items():
        for title, figures in measured.items():
            accuracy = means.get(name, {}) if title == "ours" else {}
            table.writerow({"network": name, "implementation": title} | asdict(figures) | accuracy)
        network = NETWORKS[name]
        paper = dict(zip(COSTS, network.costs, strict=True)) if network.costs else {}
        paper |= dict(zip(ACCURACIES, network.accuracies, strict=True))
        table.writerow({"network": name, "implementation": PAPER} | paper)
    return text.getvalue()


def page(plan: Plan, costs: Costs, picture: str, trained: Runs, recipe: str = "") -> str:
    """The Markdown page; ``recipe`` says how the networks were trained."""
    height, width = plan.size
    threads = "1 thread" if plan.threads == 1 else f"{plan.threads} threads"
    lines = [
        "# SegNet beside the networks of its paper",
        "",
        f"Made by `segnet-ext compare`, {datetime.datetime.now(datetime.timezone.utc).date().isoformat()}: "
        f"{processor()}, {threads}, SIMD {segnet_ext.build_info()['simd']}; torch {torch.__version__}, Python "
        f"{platform.python_version()}, segnet_ext {segnet_ext.__version__}; float32, images of {height}x{width}.",
        "",
        "## Costs",
        "",
        *_table(["network", "", *COSTS.values()], [_line(row, _plain) for row in rows(costs)]),
        "",
        "- Forward and backward are of a training step on one image, the loss in the latter.",
        f"- Training memory is of a step on {plan.batch} images, inference memory of one image in evaluation mode: the "
        "weights, and what a fresh process grows by above them in its first pass. No optimizer takes part.",
        "- Ours and plain torch are the same networks, as modules: none is frozen or compiled, and plain torch has "
        "channels_last.",
        "- The paper's (Table 6, 360x480) are of a GPU and Caffe. Its DeconvNet has more than fc layers of 1024 "
        "channels, to which its text cuts them and which it has here.",
        "",
        "### As ratios to SegNet",
        "",
        *_table(["network", "", *COSTS.values()], [_line(row, _ratio) for row in ratios(costs)]),
        "",
        f"![Memory against time]({picture})",
        "",
    ]
    if trained:
        lines += _accuracy_section(trained, recipe)
    return "\n".join(lines)


def _accuracy_section(trained: Runs, recipe: str) -> list[str]:
    means = mean_scores(trained)
    cells = []
    for name, runs in trained.items():
        figures = [_spread([100 * run.scores[key] for run in runs]) for key in ACCURACIES]
        cells.append([NETWORKS[name].title, "ours", *figures])
        cells.append(["", PAPER, *(f"{value:.2f}" for value in NETWORKS[name].accuracies)])
    lines = ["## Accuracy", "", recipe, ""]
    lines += _table(["network", "", *ACCURACIES.values()], cells)
    lines += ["", "In percent. The paper's (Table 3) are of 3,433 training images and many more epochs.", ""]
    lines += ["### Orders, best first", ""]
    for index, (key, title) in enumerate(ACCURACIES.items()):
        ours = {name: figures[key] for name, figures in means.items()}
        paper = {name: NETWORKS[name].accuracies[index] for name in ours}
        pairs = disagreements(ours, paper)
        lines.append(f"- {title}: ours {_titles(order(ours))}; paper {_titles(order(paper))}. " + _told(pairs))
    paper = {name: NETWORKS[name].accuracies[list(ACCURACIES).index("mean_iou")] for name in means}
    if pairs := disagreements({name: figures["mean_iou"] for name, figures in means.items()}, paper):
        lines += ["", "### Where the orders of mIoU differ", ""]
        lines += [_difference(a, b, trained) for a, b in pairs]
    titles = [NETWORKS[name].title for name in trained]
    lines += ["", "### mIoU after each epoch", "", "What a network still gained when its training ended.", ""]
    epochs = range(len(next(iter(trained.values()))[0].mean_iou))
    lines += _table(
        ["epoch", *titles],
        [
            [
                str(n + 1),
                *(f"{100 * statistics.fmean(run.mean_iou[n] for run in runs):.2f}" for runs in trained.values()),
            ]
            for n in epochs
        ],
        text_columns=1,
    )
    lines += ["", "### IoU of each class", "", "Where networks differ.", ""]
    columns = [_class_means(runs) for runs in trained.values()]
    lines += _table(
        ["class", *titles],
        [
            [label, *(f"{column[label]:.2f}" if label in column else "-" for column in columns)]
            for label in next(iter(trained.values()))[0].class_iou
        ],
        text_columns=1,
    )
    return [*lines, ""]


def _difference(a: str, b: str, trained: Runs) -> str:
    """What the figures say of ``a`` being above ``b`` in the paper alone."""
    rows = _class_means(trained[a]), _class_means(trained[b])
    leads = {label: rows[1][label] - rows[0][label] for label in rows[0].keys() & rows[1].keys()}
    most = ", ".join(f"{label} (+{leads[label]:.1f})" for label in order(leads)[:3] if leads[label] > 0)
    first, second = NETWORKS[a].title, NETWORKS[b].title
    text = f"- {first} above {second} in the paper alone: {second} leads here, most on {most or 'no class'}."
    if all(len(run.mean_iou) > 1 for name in (a, b) for run in trained[name]):
        gains = [
            100 * statistics.fmean(run.mean_iou[-1] - run.mean_iou[-2] for run in trained[name]) for name in (a, b)
        ]
        text += f" In the last epoch {first} gained {gains[0]:.1f} points and {second} {gains[1]:.1f}."
    return text


def _class_means(runs: Sequence[Run]) -> dict[str, float]:
    """The mean IoU over the seeds of each class that has one, in percent."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for label, iou in run.class_iou.items():
            if iou is not None:
                found.setdefault(label, []).append(100 * iou)
    return {label: statistics.fmean(values) for label, values in found.items()}


def _told(pairs: Sequence[tuple[str, str]]) -> str:
    if not pairs:
        return "The same."
    listed = ", ".join(f"{NETWORKS[a].title} above {NETWORKS[b].title}" for a, b in pairs)
    return f"In the paper alone: {listed}."


def _titles(names: Sequence[str]) -> str:
    return " > ".join(NETWORKS[name].title for name in names)


def _line(row: tuple[str, str, Mapping[str, float | None]], text: Callable[[float | None], str]) -> list[str]:
    name, title, figures = row
    return [NETWORKS[name].title if title == next(iter(IMPLEMENTATIONS)) else "", title, *map(text, figures.values())]


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _spread(values: Sequence[float]) -> str:
    """Mean, and with several values their standard deviation."""
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]], text_columns: int = 2) -> list[str]:
    rule = ["---" if i < text_columns else "---:" for i in range(len(header))]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *lines)]


def draw_chart(costs: Costs, batch: int, file: BinaryIO) -> None:
    """Writes a PNG: memory against time of training and of inference, a circle for each network, its area the model's
    size. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(12, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[tuple[str, Callable[[Measured], tuple[float, float | None]]]] = [
        (f"Training: step on 1 image, memory of {batch}", lambda m: (m.forward_ms + m.backward_ms, m.training_mb)),
        ("Inference, 1 image", lambda m: (m.inference_ms, m.inference_mb)),
    ]
    for axes, (title, place) in zip(figure.subplots(1, 2), panels, strict=True):
        for number, measured in enumerate(costs.values()):
            for implementation, figures in measured.items():
                ms, megabytes = place(figures)
                if megabytes is None:
                    continue
                ours = implementation == "ours"
                color = f"C{number}"
                axes.scatter(
                    ms, megabytes, 2 * figures.model_mb, color if ours else "none", edgecolors=color, alpha=0.6
                )
        axes.set_title(title, size=10)
        axes.set_xlabel("time, ms")
        axes.set_ylabel("memory, MB")
        axes.margins(0.25)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    marks = [
        Line2D([], [], color=f"C{number}", marker="o", linestyle="", label=NETWORKS[name].title)
        for number, name in enumerate(costs)
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)
    figure.suptitle("A circle's area is the model's size; filled: ours, hollow: plain torch", size=9)
    figure.savefig(file, format="png", dpi=130)
