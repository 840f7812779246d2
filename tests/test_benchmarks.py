"""The benchmarks' logic, without regard to time: the peers agree, reports are written, the targets are computed."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from model_cases import MODELS, randomise

from segnet_ext.measure import Cost, measure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import cpu_report
import cpu_results
import cuda_report
import harness
import peers


def needs(*packages: str) -> pytest.MarkDecorator:
    reason = peers.missing_packages(*packages)
    return pytest.mark.skipif(reason is not None, reason=str(reason))


@pytest.fixture(autouse=True)
def one_thread():
    """As the report's times; it sets the number of threads of the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain(name: str) -> torch.nn.Module:
    model = MODELS[name][1](num_classes=5)
    randomise(model, seed=3)
    return model.eval()


def assert_agree(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Almost everywhere: a near tie of a pool may go either way in float32, and then moves a few results."""
    harness.check({"torch": [expected], "the other": [actual]}, tolerance=2e-2)
    assert (actual - expected).abs().median() < 1e-4


# ---- peers


@needs("onnx", "onnxruntime")
@pytest.mark.parametrize("name, size", [("SegNet", (37, 51)), ("SegNetBasic", (37, 51)), ("SegNetBasic", (64, 35))])
@torch.inference_mode()
def test_onnx_graph_agrees_with_the_reference(name, size):
    model, images = plain(name), torch.randn(2, 3, *size)
    assert_agree(peers.onnx_session(model)(images), model(images))


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_folded_model_agrees_and_has_no_batch_norm(name):
    model, images = plain(name), torch.randn(1, 3, 33, 47)
    folded = peers.fold_batch_norm(model)
    assert_agree(folded(images), model(images))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def test_missing_packages_are_named():
    assert peers.missing_packages("torch") is None
    message = peers.missing_packages("torch", "no_such_package", "nor_this")
    assert message == "no_such_package and nor_this not found: pip install 'segnet_ext[bench]'"


# ---- harness


def module_of(results: dict[str, float], runs: dict[str, int]) -> ModuleType:
    """A bench file whose variants return one number each and count their runs."""
    module = ModuleType("bench_numbers")

    def build(variant, direction, shape, target):
        def run():
            runs[variant] = runs.get(variant, 0) + 1
            return [torch.tensor(results[variant])]

        return harness.Step(run)

    module.build, module.TOLERANCE = build, 0.01
    return module


def measured(results: dict[str, float], runs: dict[str, int], **options) -> dict[str, harness.Result]:
    module = module_of(results, runs)
    return harness.measure(module, "forward", (1,), list(results), 0.0, harness.Target(), peaks=False, **options)


def take(monkeypatch, seconds: float) -> None:
    """Lets every run take so long."""

    def time_on_cpu(step, calls=1):
        for _ in range(calls):
            step.run()
        return seconds

    monkeypatch.setattr(harness, "_time_on_cpu", time_on_cpu)


@pytest.mark.parametrize(
    ("seconds", "runs_a_turn"), [(harness.TURN_SECONDS / 4, 1 + 4 + 4), (harness.TURN_SECONDS * 2, 1 + 1 + 1), (1.0, 1)]
)
def test_variants_run_equally_often(monkeypatch, seconds, runs_a_turn):
    take(monkeypatch, seconds)
    runs: dict[str, int] = {}
    results = measured({"ours": 1.001, "torch": 1.0}, runs)
    assert runs == dict.fromkeys(runs, 2 + runs_a_turn * harness.MIN_ROUNDS)  # two to warm up
    assert all(result.seconds == [seconds] * harness.MIN_ROUNDS for result in results.values())
    assert not any(result.cold_seconds for result in results.values())


def test_cold_turns_are_single_runs(monkeypatch):
    take(monkeypatch, harness.TURN_SECONDS / 4)
    runs: dict[str, int] = {}
    results = measured({"ours": 1.0, "torch": 1.0}, runs, cold_budget=0.0)
    assert runs == dict.fromkeys(runs, 2 + (1 + 4 + 4 + 1) * harness.MIN_ROUNDS)
    assert all(len(result.cold_seconds) == harness.MIN_ROUNDS for result in results.values())


def test_a_wrong_result_is_not_timed():
    runs: dict[str, int] = {}
    with pytest.raises(AssertionError, match="ours: result 0 is off"):
        measured({"ours": 1.1, "torch": 1.0}, runs)
    assert runs == {"ours": 2, "torch": 2}  # to warm up


def test_what_is_far_behind_is_not_run_again(monkeypatch):
    take(monkeypatch, 1.0)
    monkeypatch.setattr(harness, "_warm_up", lambda variant, step, _: (step.run(), took[variant]))
    took = {"ours": 9.5, "torch": 9.0, "torch.compile": 1.0}
    runs: dict[str, int] = {}
    results = measured(dict.fromkeys(took, 1.0), runs)
    assert runs["torch"] == 1 < runs["torch.compile"] == runs["ours"]
    assert results["torch"].seconds == [9.0]


def test_less_precision_does_not_make_a_peer():
    assert (
        harness.best_peer({"ours": 1.0, harness.AUTOCAST: 0.1, "torch": 3.0, "torch.compile": 2.0}) == "torch.compile"
    )


# ---- cost of models


def test_costs_of_inference_and_training():
    model, images = plain("SegNetBasic"), torch.randn(1, 3, 32, 32)
    inference, training = measure("inference", model, images), measure("training", model.train(), images)
    assert inference.saved_bytes is None
    assert training.saved_bytes > 0
    assert all(parameter.grad is not None for parameter in model.parameters())
    for cost in (inference, training):
        assert cost.ms > 0
        assert cost.peak_bytes is None or 0 <= cost.peak_bytes < cost.absolute_peak_bytes


# ---- the report


def row(case: str, ours: float, direction: str = "forward", dtype: str = "float32") -> cpu_results.Row:
    seconds = {"ours": ours, "torch": 9.0, "torch.compile": 6.0}
    return cpu_results.Row("max_unpool2d_conv2d", direction, case, (1, 2), dtype, seconds, multiply_adds=8)


def verdict_of(results: cpu_results.Results, text: str) -> str:
    (goal,) = (goal for goal in cpu_results.goals(results) if goal.text == text)
    return goal.verdict


def test_targets_are_judged_by_the_slowest_stage():
    text = "max_unpool2d_conv2d forward, 64 and 128 channels"
    results = cpu_results.Results({})
    assert all(goal.verdict == "not measured" for goal in cpu_results.goals(results))
    results.ops = [row("stage1", 1.0), row("stage2", 2.0), row("stage3", 6.0)]
    assert verdict_of(results, text) == "reached"  # 6 / 2 is the needed 3
    assert verdict_of(results, "max_unpool2d_conv2d forward, 256 and 512 channels") == "**not reached**"
    assert verdict_of(results, "max_unpool2d_conv2d backward, 64 and 128 channels") == "not measured"
    results.ops[1] = row("stage2", 2.01)
    assert verdict_of(results, text) == "**not reached**"


def test_memory_targets_compare_with_the_least_of_torchs():
    def cost(mebibytes):
        return Cost(1.0, mebibytes * cpu_results.MEBI, None, None)

    text = "SegNet inference, peak memory, of eager's"
    costs = {"ours": cost(6), "torch": cost(20), "torch channels_last": cost(10)}
    weighed = cpu_results.Weighed("SegNet", "inference", "full", (360, 480), 1, costs)
    assert weighed.share("peak_bytes") == 0.6
    assert weighed.share("absolute_peak_bytes") is None
    assert verdict_of(cpu_results.Results({}, memory=[weighed]), text) == "reached"
    costs["ours"] = cost(7)
    assert verdict_of(cpu_results.Results({}, memory=[weighed]), text) == "**not reached**"


def test_threads_are_compared_in_undisturbed_turns():
    def turns(*seconds_and_probes):
        return [cpu_results.Turn(seconds, probe) for seconds, probe in seconds_and_probes]

    quiet, disturbed = [(4.0, 10.0), (5.0, 10.5), (6.0, 11.0)], [(9.0, 11.1), (9.5, 20.0), (9.6, 20.0)]
    # Which turns count is asked of the probes, for each number of threads alone: the slow one of 20 is undisturbed.
    two = [(20.0, 1.0), (2.0, 1.05), (2.0, 1.1), (2.0, 1.0), (2.0, 1.0), (1.0, 3.0)]
    threads = cpu_results.Threads("SegNet", "inference", "full", {1: turns(*quiet * 2, *disturbed), 2: turns(*two)})
    assert threads.seconds == {1: 6.0, 2: 2.0}
    assert threads.undisturbed_seconds == {1: 5.0, 2: 2.0}
    assert threads.speedup == 2.5
    text = "SegNet inference, 2 threads against 1"
    assert verdict_of(cpu_results.Results({}, threads=[threads]), text) == "reached"
    assert "| 6000.0 | 2000.0 | 3.00x | 5000.0 (6 of 9) | 2000.0 (5 of 6) | **2.50x** |" in cpu_results.thread_table(
        [threads]
    )
    few = cpu_results.Threads("SegNet", "inference", "full", {1: turns(*quiet), 2: turns(*two)})
    assert few.undisturbed_seconds is None
    assert few.speedup == 5.0 / 2.0  # of all
    assert cpu_results.thread_table([few]).endswith("| (3 of 3) | (5 of 6) | too few |")


def test_rates_are_shares_of_the_peak():
    table = cpu_results.roofline_table([row("stage1", 2.0)], fma_peak=8.0)
    assert table.splitlines()[-1].endswith("| 0.0 | 50 % | 0.0 | 17 % |")


def test_a_pools_floor_is_its_bytes_at_the_rate_of_a_copy():
    figures = {"bytes_moved": 10**9, "copy_seconds": 1.0, "cold_seconds": {"ours": 4.0, "torch": 6.0}}
    pool = cpu_results.Row("pool", "forward", "stage1", (1,), "float32", {"ours": 2.0, "torch": 6.0}, **figures)
    table = cpu_results.copy_rate_table([row("stage1", 2.0), pool])
    assert len(table.splitlines()) == 3  # the row without bytes is left out
    assert table.splitlines()[-1].endswith("| 1.0 | 0.5 | 0.2 | **3.00x** | 6.00x | 1.50x |")


@pytest.mark.parametrize(
    ("name", "direction", "bytes_moved"),
    [  # a map of 240 bytes, a pooled one of 96, 6 of codes
        ("bn_relu_max_pool2d", "inference", 240 + 96 + 6),
        ("bn_relu_max_pool2d", "forward", 2 * 240 + 96 + 6),
        ("bn_relu_max_pool2d", "backward", 2 * 96 + (240 + 96 + 6) + 240),
        ("max_pool2d_with_codes", "forward", 240 + 96 + 6),
        ("max_pool2d_with_codes", "backward", 240 + 96 + 6),
    ],
)
def test_bytes_that_a_pool_moves(name, direction, bytes_moved):
    module = harness.load_module(str(cpu_report.FOLDER / f"bench_{name}.py"))
    assert module.bytes_moved(direction, (1, 4, 3, 5)) == bytes_moved


@needs("matplotlib", "onnx", "onnxruntime")
@pytest.mark.parametrize("area", ["ops", "models", "memory", "scaling"])
def test_quick_report_is_written(area, tmp_path, monkeypatch):
    real = cpu_report.bench_modules

    def modules(models):
        found = real(models)
        if models:  # one of the models will do
            found[0].REPORT = {"SegNetBasic inference": ["full"]}
        return found

    monkeypatch.setattr(cpu_report, "bench_modules", modules)
    # In place of a process for each figure; test_cli.py's demo starts some.
    monkeypatch.setattr(cpu_report, "measure_apart", lambda *_: Cost(2.0, 3 * cpu_results.MEBI, None, None))
    cpu_report.main(["--quick", "--only", area, "--out", str(tmp_path)])
    page = (tmp_path / "cpu.md").read_text(encoding="utf-8")
    pictures = {"ops": {"cpu.png"}, "models": {"cpu.png"}, "memory": set(), "scaling": {"cpu_scaling.png"}}[area]
    assert {file.name for file in tmp_path.iterdir()} == {"cpu.md", *pictures}
    assert all(f"({name})" in page and (tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    heading = {"ops": "Operations", "models": "Models", "memory": "Memory", "scaling": "Scaling of"}[area]
    assert f"## {heading}" in page
    assert page.count("not measured") == len(cpu_results.goals(cpu_results.Results({})))  # tiny sizes count for nothing
    if area == "ops":
        assert all(module.__name__.removeprefix("bench_") in page for module in real(models=False))


# ---- the page of a GPU


def test_a_page_of_a_run_on_a_gpu(tmp_path):
    info = dict.fromkeys(cuda_report.ENVIRONMENT, "x") | {"peak_bytes_is": "the rise", "saved_bytes": None}
    medians = {"ours": 2e-6, "torch": 5e-6, "torch channels_last": 3e-6}
    run = {
        "datetime": "2026-01-02T03:04:05",
        "benchmarks": [
            {
                "group": f"op, stage1 1x2x3x4{dtype}, forward",
                "extra_info": info | {"variant": variant, "peak_bytes": 2**20 if variant == "ours" else 3 * 2**19},
                "stats": {"median": median},
            }
            for dtype in ("", " float16")
            for variant, median in medians.items()
        ],
    }
    half = len(medians)
    files = [tmp_path / name for name in ("one.json", "two.json", "page.md")]
    for file, entries in zip(files, (run["benchmarks"][:half], run["benchmarks"][half:]), strict=False):
        file.write_text(json.dumps(run | {"benchmarks": entries}))
    cuda_report.main(list(map(str, files)))
    rows = [line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("| op |")]
    assert rows[1:] == [
        f"| op | stage1 1x2x3x4 {dtype} | forward | 2 | 5 | 3 | 1.50 | torch channels_last | 1.0 / 1.5 | - / - |"
        for dtype in ("float32", "float16")
    ]

    entries[0]["extra_info"]["torch"] = "y"
    files[1].write_text(json.dumps(run | {"benchmarks": entries}))
    with pytest.raises(SystemExit, match="the runs differ in torch: x, y"):
        cuda_report.main(list(map(str, files)))
