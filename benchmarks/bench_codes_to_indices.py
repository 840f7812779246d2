"""codes_to_indices against its plain-torch definition."""

from collections.abc import Sequence

import torch
from harness import COMPILED, SMALL_SIDES, STAGES, Step, Target, compiled

from segnet_ext import ops, reference

SHAPES = STAGES
SMALL = [(1, 64, side, side) for side in SMALL_SIDES]
DEFAULT = ["stage1"]
TINY = (1, 16, 24, 32)
DIRECTIONS = ["conversion"]
REPORT = {"conversion": ["stage1", "stage5"]}  # no step of a model converts
TOLERANCE = 0.0
EXACT = True
SECONDS = 3.0


def build(variant: str, direction: str, shape: Sequence[int], target: Target) -> Step:
    n, c, h, w = shape
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (n, (h + 1) // 2, (w + 1) // 2, c // 4), generator=generator).to(torch.uint8)
    codes = target.place(codes)
    function = ops.codes_to_indices if variant == "ours" else reference.codes_to_indices
    function = compiled(function) if variant == COMPILED else function
    return Step(lambda: [function(codes, tuple(shape))])


def test_codes_to_indices(run_case):
    run_case()
