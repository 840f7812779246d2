"""max_pool2d_with_codes against F.max_pool2d with indices, at the ends of SegNet's encoder stages."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from harness import COMPILED, SMALL_SIDES, STAGES, Step, Target, compiled, layout_of
from torch import Tensor

from segnet_ext.ops import max_pool2d_with_codes

SHAPES = STAGES
SMALL = [(1, 64, side, side) for side in SMALL_SIDES]
DEFAULT = ["stage1"]
TINY = (1, 16, 24, 32)
DIRECTIONS = ["forward", "backward"]
TOLERANCE = 0.0
SECONDS = 3.0


def unfused(x: Tensor) -> tuple[Tensor, Tensor]:
    return F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)


def bytes_moved(direction: str, shape: Sequence[int]) -> int:
    """Of the map, the pooled map and the codes, in both directions."""
    n, channels, height, width = shape
    pooled = n * channels * ((height + 1) // 2) * ((width + 1) // 2)
    return 4 * n * channels * height * width + 4 * pooled + pooled // 4


def build(variant: str, direction: str, shape: Sequence[int], target: Target) -> Step:
    generator = torch.Generator().manual_seed(0)
    layout = layout_of(variant, target)
    x = target.place(torch.randn(shape, generator=generator), layout).requires_grad_()
    torchs = compiled(unfused) if variant == COMPILED else unfused

    def forward() -> Tensor:
        return max_pool2d_with_codes(x, ceil_mode=True)[0] if variant == "ours" else torchs(x)[0]

    if direction == "forward":
        return Step(lambda: [forward().detach()], forward)
    output = forward()
    gradient = target.place(torch.randn(output.shape, generator=generator), layout)
    return Step(lambda: torch.autograd.grad(output, x, gradient, retain_graph=True), forward)


def test_max_pool2d_with_codes(run_case):
    run_case()
