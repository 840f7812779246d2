"""Options, parametrization and the closing table of the benchmarks; what is measured and how is told in harness.py.

pytest benchmarks/ --benchmark-only                 the ops and both models against torch and ONNX Runtime, minutes
pytest benchmarks/ --benchmark-only --quick         tiny sizes, no torch.compile, a minute: does everything still run?
pytest benchmarks/ --benchmark-only --no-compile    without torch.compile, whose compiling takes most of the time
pytest benchmarks/ --benchmark-only --all-stages    every SegNet stage at 360x480 for the ops
pytest benchmarks/ --benchmark-only --device cuda   on a GPU, in float32 and float16 (models: under autocast)
pytest benchmarks/ --benchmark-only --batch 4       with another number of images
OMP_NUM_THREADS=1 pytest benchmarks/ …              another number of threads
"""

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

# bench files share harness.py and are collected with --import-mode=importlib, which leaves sys.path alone.
sys.path.insert(0, str(Path(__file__).parent))

import harness
import torch

CLOCK = harness.ReplayClock()
PEAK_IS = {
    "cpu": "rise of VmHWM over VmRSS in a fresh process while one step runs",
    "cuda": "rise of torch.cuda.max_memory_allocated over memory_allocated while one step runs",
}
RESULTS: dict[tuple[str, str, str], dict[str, harness.Result]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("segnet_ext benchmarks")
    group.addoption("--quick", action="store_true", help="tiny sizes, few rounds and no torch.compile")
    group.addoption("--no-compile", action="store_true", help="leave torch.compile of the torch version out")
    group.addoption("--all-stages", action="store_true", help="every SegNet stage, not two of five, for the ops")
    group.addoption("--device", choices=["cpu", "cuda"], default="cpu", help="where to run; cuda adds float16")
    group.addoption("--batch", type=int, help="images at a time, instead of each benchmark's own number")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("python_files", "bench_*.py")
    if reason := harness.why_not(config.getoption("device")):
        raise pytest.UsageError(reason)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "group" not in metafunc.fixturenames:
        return
    module, option = metafunc.module, metafunc.config.getoption
    names = list(module.SHAPES) if option("all_stages") else module.DEFAULT
    shapes = {"tiny": module.TINY} if option("quick") else {name: module.SHAPES[name] for name in names}
    if option("batch"):
        shapes = {name: (option("batch"), *shape[1:]) for name, shape in shapes.items()}
    device, compile = option("device"), not (option("quick") or option("no_compile"))
    op = metafunc.function.__name__.removeprefix("test_")
    cases = []
    for name, shape in shapes.items():
        for direction in module.DIRECTIONS:
            for target in harness.targets(module, direction, device):
                variants = harness.variants(module, direction, target, compile)
                dtype = "" if target.dtype == torch.float32 else f" {target}"
                label = f"{name} {'x'.join(map(str, shape))}{dtype}"
                for variant in variants:
                    mark = pytest.mark.benchmark(group=f"{op}, {label}, {direction}", timer=CLOCK)
                    cases.append(
                        pytest.param(
                            (op, label, direction),
                            shape,
                            target,
                            variants,
                            variant,
                            marks=mark,
                            id=f"{name}{dtype}-{direction}-{variant}".replace(" ", "_"),
                        )
                    )
    metafunc.parametrize(("group", "shape", "target", "variants", "variant"), cases)


@pytest.fixture
def run_case(benchmark, request, group, shape, target, variants, variant):
    """Measures the group when its first variant asks, and hands each variant's rounds to pytest-benchmark."""

    def run() -> None:
        if group not in RESULTS:
            module = harness.load_module(str(request.path))
            budget = 0.1 if request.config.getoption("quick") else module.SECONDS
            RESULTS[group] = harness.measure(module, group[2], shape, variants, budget, target)
        result = RESULTS[group][variant]
        benchmark.extra_info.update(harness.environment(target.device.type))
        benchmark.extra_info.update(
            {
                "variant": variant,
                "direction": group[2],
                "peak_bytes": result.peak_bytes,
                "peak_bytes_is": PEAK_IS[target.device.type],
                "saved_bytes": result.saved_bytes,
            }
        )
        benchmark.pedantic(CLOCK.rounds(result.seconds), rounds=len(result.seconds))

    return run


def _mebibytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**20:.1f}"


def _milliseconds(result: harness.Result | None) -> str:
    return "-" if result is None else f"{result.median * 1e3:.2f}"


def _row(group: tuple[str, str, str], results: dict[str, harness.Result], others: list[str]) -> list[str]:
    op, label, direction = group
    ours = results["ours"]
    torchs = results[harness.baseline(results)]
    best = harness.best_peer({variant: result.median for variant, result in results.items()})
    return [
        f"{op} {label}",
        direction,
        *(_milliseconds(results.get(variant)) for variant in ("ours", *others)),
        f"{results[best].median / ours.median:.2f}x {best}",
        f"{_mebibytes(ours.peak_bytes)} / {_mebibytes(torchs.peak_bytes)}",
        f"{_mebibytes(ours.saved_bytes)} / {_mebibytes(torchs.saved_bytes)}",
    ]


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, object, object]:
    result = yield  # pytest-benchmark's tables come first
    if RESULTS:
        _write_table(terminalreporter)
    return result


def _write_table(terminalreporter: pytest.TerminalReporter) -> None:
    others = list(dict.fromkeys(variant for results in RESULTS.values() for variant in results if variant != "ours"))
    header = ["op and shape", "direction", "ours ms", *(f"{variant} ms" for variant in others), "best of them / ours"]
    header += ["peak MiB ours / torch", "saved MiB ours / torch"]
    rows = [header, *(_row(group, results, others) for group, results in RESULTS.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    environment = harness.environment(terminalreporter.config.getoption("device"))
    terminalreporter.section("segnet_ext against its peers: medians of rounds run in turn")
    terminalreporter.line(", ".join(f"{key} {value}" for key, value in environment.items()))
    for row in rows:
        terminalreporter.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
