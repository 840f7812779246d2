"""docs/performance.md is what its script writes, and the script counts what it says."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "docs"))

import make_performance
import roofline


def test_the_page_is_what_the_script_writes():
    written = make_performance.PAGE.read_text(encoding="utf-8")
    assert written == make_performance.page(), "run python docs/make_performance.py"
    assert "Computed, not measured" in written


def test_stages_are_those_of_segnet():
    assert [(s.channels, s.height, s.width) for s in roofline.stages()] == [
        (64, 360, 480),
        (128, 180, 240),
        (256, 90, 120),
        (512, 45, 60),
        (512, 23, 30),
    ]


@pytest.mark.parametrize("stage", roofline.stages(), ids=lambda stage: f"stage{stage.number}")
def test_codes_and_indices_weigh_what_they_should(stage):
    sizes = roofline.Sizes(stage, 1, "fp16")
    assert sizes.indices == 32 * sizes.codes


def test_all_codes_of_an_image_are_as_small_as_promised():
    sizes = [roofline.Sizes(stage, 1, "fp16") for stage in roofline.stages()]
    assert round(sum(s.indices for s in sizes) / 1e6, 1) == 42.3
    assert round(sum(s.codes for s in sizes) / 1e6, 2) == 1.32


def test_a_floor_is_the_longer_of_two_times():
    gpu = roofline.GPUS[0]
    assert roofline.Work("", gpu.bandwidth, 0).floor(gpu, "fp16") == pytest.approx(1e6)
    assert roofline.Work("", 1, gpu.tensor["fp16"], tensor=True).floor(gpu, "fp16") == pytest.approx(1e6)
    assert roofline.Work("", 1, gpu.tensor["fp16"], tensor=True).floor(gpu, "fp16", 0.5) == pytest.approx(2e6)
    assert roofline.Work("", gpu.bandwidth, gpu.float32 / 2).limiter(gpu, "fp16") == "memory"


@pytest.mark.parametrize("dtype", roofline.DTYPE_NAMES)
@pytest.mark.parametrize("step", roofline.STEPS, ids=lambda step: f"{step.op}-{step.direction}-{step.batch}")
def test_fewer_bytes_than_torch(step, dtype):
    for stage in roofline.stages():
        sizes = roofline.Sizes(stage, step.batch, dtype)
        assert sum(w.bytes for w in step.ours(sizes)) < sum(w.bytes for w in step.torchs(sizes))
