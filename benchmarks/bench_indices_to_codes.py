"""indices_to_codes against its plain-torch definition."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from harness import COMPILED, SMALL_SIDES, STAGES, Step, Target, compiled, layout_of

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
    x = target.place(torch.randn(shape, generator=torch.Generator().manual_seed(0)), layout_of(variant, target))
    _, indices = F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
    function = ops.indices_to_codes if variant == "ours" else reference.indices_to_codes
    function = compiled(function) if variant == COMPILED else function
    return Step(lambda: [function(indices, tuple(shape[2:]))])


def test_indices_to_codes(run_case):
    run_case()
