"""Measures segnet_ext against its peers on this CPU and writes the report.

python benchmarks/cpu_report.py                  all of it: cpu.md, cpu.png, cpu_scaling.png in benchmarks/results
python benchmarks/cpu_report.py --only memory    one area: ops, models, memory or scaling
python benchmarks/cpu_report.py --quick          tiny sizes and few rounds: does everything still run?

Times are those of one thread (--threads); memory and scaling are measured on all processors, as users run models. The
groups and their variants are those of the bench files; harness.py tells how they are measured.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import harness
import torch
from cpu_results import Results, Row, Threads, Turn, Weighed, page
from peers import missing_packages

from segnet_ext.measure import CHECKPOINTED, IMPLEMENTATIONS, Cost, measure_apart

FOLDER = Path(__file__).resolve().parent
AREAS = ("ops", "models", "memory", "scaling")
MODELS = {"SegNet": "segnet", "SegNetBasic": "segnet-basic"}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    quick: bool
    compile: bool

    @property
    def seconds(self) -> float:
        """At most, for the rounds of one group."""
        return 0.05 if self.quick else 2.0

    @property
    def weighed(self) -> dict[str, tuple[str, tuple[int, int], int]]:
        """{what: (case, size, batch)}; cases are named as in bench_models.py."""
        if self.quick:
            return {"inference": ("tiny", (32, 48), 1), "training": ("tiny", (64, 64), 1)}
        return {"inference": ("full", (360, 480), 1), "training": ("pair", (180, 240), 2)}

    @property
    def checkpointed(self) -> list[tuple[str, tuple[int, int], int]]:
        """(case, size, batch) of the training steps to weigh with and without checkpointing."""
        return [self.weighed["training"]] + ([] if self.quick else [("full", (360, 480), 2)])

    @property
    def models(self) -> list[str]:
        """To weigh; one is enough to see whether it runs."""
        return ["SegNetBasic"] if self.quick else list(MODELS)

    @property
    def processes(self) -> int:
        """That weigh a model, of which the median counts."""
        return 1 if self.quick else 3

    @property
    def processors(self) -> int:
        """Of memory and scaling."""
        return 1 if self.quick else processors()

    @property
    def sides(self) -> list[int]:
        return [32] if self.quick else [64, 128, 256, 512, 1024]

    @property
    def batches(self) -> list[int]:
        return [2] if self.quick else [1, 2, 4, 8, 16]

    @property
    def batch_side(self) -> int:
        return 32 if self.quick else 128


def bench_modules(models: bool) -> list[ModuleType]:
    """The bench files of the ops, found by their names, or that of the models."""
    of_ops = sorted(path for path in FOLDER.glob("bench_*.py") if path.stem not in ("bench_models", "bench_paper"))
    return [harness.load_module(str(path)) for path in ([FOLDER / "bench_models.py"] if models else of_ops)]


def measure_groups(module: ModuleType, plan: Plan) -> list[Row]:
    """Every direction, shape and dtype of a bench file that the report has."""
    subject = Path(module.__file__ or "").stem.removeprefix("bench_")
    report = getattr(module, "REPORT", {direction: list(module.SHAPES) for direction in module.DIRECTIONS})
    rows = []
    for direction, names in report.items():
        shapes = {"tiny": module.TINY} if plan.quick else {name: module.SHAPES[name] for name in names}
        for target in harness.targets(module, direction, "cpu"):
            for case, shape in shapes.items():
                variants = harness.variants(module, direction, target, plan.compile)
                moved = module.bytes_moved(direction, shape) if hasattr(module, "bytes_moved") else None
                results = harness.measure(
                    module,
                    direction,
                    shape,
                    variants,
                    plan.seconds,
                    target,
                    peaks=False,
                    cold_budget=plan.seconds / 4 if moved else None,
                )
                model, what = direction.split(maxsplit=1) if subject == "models" else (subject, direction)
                dense = module.multiply_adds(direction, shape) if hasattr(module, "multiply_adds") else None
                row = Row(
                    model,
                    what,
                    case,
                    tuple(shape),
                    str(target),
                    {variant: result.median for variant, result in results.items()},
                    {variant: result.saved_bytes for variant, result in results.items()},
                    dense,
                    moved,
                    copy_seconds(moved, plan) if moved else None,
                    {
                        name: statistics.median(result.cold_seconds)
                        for name, result in results.items()
                        if result.cold_seconds
                    },
                )
                rows.append(row)
                say(f"{model} {case} {what} {target}: {row.speedup:.2f}x {row.best}")
    return rows


def measure_small(module: ModuleType, plan: Plan) -> list[Row]:
    """Calls of an op on maps so small that little else is left than the call."""
    subject = Path(module.__file__ or "").stem.removeprefix("bench_")
    seconds = plan.seconds / 4
    rows = []
    for direction in getattr(module, "REPORT", module.DIRECTIONS):
        for shape in getattr(module, "SMALL", [])[: 1 if plan.quick else None]:
            results = harness.measure(
                module, direction, shape, harness.VARIANTS, seconds, harness.Target(), peaks=False
            )
            medians = {variant: result.median for variant, result in results.items()}
            rows.append(Row(subject, direction, "tiny" if plan.quick else "small", tuple(shape), "float32", medians))
    return rows


def measure_threads(plan: Plan) -> list[Threads]:
    """SegNet's steps on one thread and on two, and what the machine has to give."""
    counts = [1, 2] if processors() >= 2 else [1]
    (module,) = bench_modules(models=True)
    before = torch.get_num_threads()
    n = 64 if plan.quick else 1024
    a, b, result = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
    product = harness.Step(lambda: [torch.mm(a, b, out=result)])
    rows = []

    def add(model: str, what: str, case: str, run: Callable[[], object], seconds: float) -> None:
        def on(threads: int) -> Sequence[torch.Tensor]:
            torch.set_num_threads(threads)
            run()
            return []

        def turn(step: harness.Step) -> float:
            step.run()  # wakes processors that the turn before left asleep, and gives the probe as many threads
            probes = [harness.second_run(product)]
            taken = harness.cold_turn(step)
            probes.append(harness.second_run(product))
            turns[torch.get_num_threads()].append(Turn(taken, max(probes)))
            return taken

        turns: dict[int, list[Turn]] = {count: [] for count in counts}
        steps = {str(count): harness.Step(lambda count=count: on(count)) for count in counts}
        harness.time_in_turn(steps, seconds, CPU, turn)
        rows.append(Threads(model, what, case, turns))
        say(f"{model} {what}: {rows[-1].speedup:.2f}x on {max(counts)} threads")

    for direction, (case,) in module.REPORT.items():
        model, what = direction.split(maxsplit=1)
        if len(counts) == 1 or model != "SegNet" or (plan.quick and what != "inference"):
            continue
        shape = module.TINY if plan.quick else module.SHAPES[case]
        run = module.build("ours", direction, shape, harness.Target()).run
        # Many rounds of steps that take long: a good part of them is disturbed where others share the machine.
        add(model, what, "tiny" if plan.quick else case, run, 60 * plan.seconds)
    if len(counts) > 1:
        large, copy = torch.randn(32, n, n), torch.empty(32, n, n)
        seconds = 6 * plan.seconds
        add("machine", f"torch.mm, {n} x {n}", "machine", product.run, seconds)
        add("machine", f"copy_, {large.nbytes >> 20} MiB", "machine", lambda: copy.copy_(large), seconds)
        add("machine", f"torch.ones, {large.nbytes >> 20} MiB", "machine", lambda: torch.ones(32, n, n), seconds)
    torch.set_num_threads(before)
    return rows


def weigh(
    plan: Plan,
    model: str,
    what: str,
    case: str,
    size: tuple[int, int],
    batch: int,
    processes: int = 1,
    implementations: Sequence[str] = IMPLEMENTATIONS,
) -> Weighed:
    """Of several processes in turn, the one of the median peak: as malloc's blocks happen to lie, peaks differ by a
    tenth."""
    runs: dict[str, list[Cost]] = {name: [] for name in implementations[: 2 if plan.quick else None]}
    for _ in range(processes):
        for name, of_it in runs.items():
            of_it.append(measure_apart(what, name, MODELS[model], size, batch, plan.processors))
    costs = {name: sorted(of_it, key=lambda cost: cost.peak_bytes or 0)[processes // 2] for name, of_it in runs.items()}
    say(f"{model} {what} {batch} x {size[0]}x{size[1]}: weighed")
    return Weighed(model, what, case, size, batch, costs)


def measure_memory(plan: Plan) -> list[Weighed]:
    return [
        weigh(plan, model, what, *sizes, plan.processes)
        for model in plan.models
        for what, sizes in plan.weighed.items()
    ]


def measure_checkpointed(plan: Plan) -> list[Weighed]:
    return [
        weigh(plan, model, "training", *sizes, plan.processes, ("ours", CHECKPOINTED))
        for model in plan.models
        for sizes in plan.checkpointed
    ]


def measure_scaling(plan: Plan) -> list[Weighed]:
    side = plan.batch_side
    pixels = [weigh(plan, "SegNet", "inference", "pixels", (n, n), 1) for n in plan.sides]
    return pixels + [weigh(plan, "SegNet", "inference", "batch", (side, side), batch) for batch in plan.batches]


def fma_peak(quick: bool) -> float:
    """Multiply-adds a second of the fastest of some large matrix products."""
    n = 128 if quick else 2048
    a, b = torch.randn(n, n), torch.randn(n, n)
    times = harness.time_in_turn({"mm": harness.Step(lambda: [torch.mm(a, b)])}, 1.0, CPU)
    return n**3 / min(times["mm"])


def copy_seconds(moved: int, plan: Plan) -> float:
    """Seconds of a copy that reads and writes so many bytes."""
    source = torch.randn(moved // 2 // 4)
    copy = torch.empty_like(source)
    times = harness.time_in_turn({"copy": harness.Step(lambda: [copy.copy_(source)])}, plan.seconds / 8, CPU)
    return statistics.median(times["copy"])


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, object]:
    return {
        **harness.environment("cpu"),
        "processors": processors(),
        "onnxruntime": version("onnxruntime"),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def say(text: str) -> None:
    print(f"{time.perf_counter() - STARTED:6.0f} s  {text}", flush=True)


STARTED = time.perf_counter()


def measure_all(areas: Sequence[str], plan: Plan) -> Results:
    results = Results(environment())
    if "models" in areas:  # first, while no peer has threads in this process
        results.threads = measure_threads(plan)
    if "ops" in areas:
        results.fma_peak = fma_peak(plan.quick)
        for module in bench_modules(models=False):
            results.ops += measure_groups(module, plan)
            results.small += measure_small(module, plan)
    if "models" in areas:
        for module in bench_modules(models=True):
            results.models += measure_groups(module, plan)
    if "memory" in areas:
        results.memory = measure_memory(plan)
        results.checkpointed = measure_checkpointed(plan)
    if "scaling" in areas:
        results.scaling = measure_scaling(plan)
    return results


def write(results: Results, plan: Plan, out: Path) -> None:
    """The page and its pictures."""
    import cpu_plots  # here, so that a missing matplotlib is told by main()

    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    if results.ops or results.models:
        cpu_plots.speedup_chart(results, out / "cpu.png")
        pictures.append("cpu.png")
    if results.scaling:
        cpu_plots.scaling_chart(results.scaling, plan.processors, out / "cpu_scaling.png")
        pictures.append("cpu_scaling.png")
    (out / "cpu.md").write_text(page(results, pictures), encoding="utf-8")
    print("\n".join(f"wrote {out / name}" for name in ("cpu.md", *pictures)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=AREAS, help="measure one area; the page then has no other")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, few rounds and no torch.compile")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--threads", type=int, default=1, help="of times; default: 1")
    parser.add_argument("--out", type=Path, default=FOLDER / "results", help="folder; default: benchmarks/results")
    options = parser.parse_args(arguments)
    if reason := missing_packages("matplotlib", "onnx", "onnxruntime"):
        sys.exit(f"cpu_report.py: {reason}")
    torch.set_num_threads(options.threads)
    areas = [options.only] if options.only else AREAS
    plan = Plan(options.quick, not (options.quick or options.no_compile))
    write(measure_all(areas, plan), plan, options.out)


if __name__ == "__main__":
    main()
