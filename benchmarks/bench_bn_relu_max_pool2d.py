"""bn_relu_max_pool2d against F.batch_norm, F.relu and F.max_pool2d with indices, at SegNet's encoder stages."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from harness import COMPILED, SMALL_SIDES, STAGES, Step, Target, compiled, layout_of
from torch import Tensor

from segnet_ext.ops import bn_relu_max_pool2d

SHAPES = STAGES
SMALL = [(1, 64, side, side) for side in SMALL_SIDES]
DEFAULT = ["stage1", "stage4"]
TINY = (1, 16, 24, 32)
DIRECTIONS = ["inference", "forward", "backward"]  # forward: training, recording the graph
# A near tie goes either way now and then, and takes one value of the gradient with it.
TOLERANCE = 5e-3
SECONDS = 4.0


def unfused(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, training: bool
) -> tuple[Tensor, Tensor]:
    normalised = F.batch_norm(x, mean, var, weight, bias, training)
    return F.max_pool2d(F.relu(normalised), 2, 2, ceil_mode=True, return_indices=True)


def bytes_moved(direction: str, shape: Sequence[int]) -> int:
    """Of the maps and codes of each pass; batch statistics and their gradients take a pass before the other."""
    n, channels, height, width = shape
    pooled = n * channels * ((height + 1) // 2) * ((width + 1) // 2)
    full, codes = 4 * n * channels * height * width, pooled // 4
    if direction == "backward":
        return 2 * 4 * pooled + 2 * full + 4 * pooled + codes  # the sums are taken from the output
    return (2 if direction == "forward" else 1) * full + 4 * pooled + codes


def build(variant: str, direction: str, shape: Sequence[int], target: Target) -> Step:
    generator = torch.Generator().manual_seed(0)
    training = direction != "inference"
    channels = shape[1]
    layout = layout_of(variant, target)
    x = target.place(torch.randn(shape, generator=generator), layout)
    # BatchNorm's parameters and statistics stay float32, whatever the map is.
    weight, bias = torch.rand(channels, generator=generator) + 0.5, torch.randn(channels, generator=generator)
    weight, bias = weight.to(target.device), bias.to(target.device)
    mean, var = torch.zeros(channels, device=target.device), torch.ones(channels, device=target.device)
    for tensor in (x, weight, bias):
        tensor.requires_grad_(training)
    torchs = compiled(unfused) if variant == COMPILED else unfused

    def forward() -> Tensor:
        if variant == "ours":
            return bn_relu_max_pool2d(x, weight, bias, mean, var, training, ceil_mode=True)[0]
        return torchs(x, weight, bias, mean, var, training)[0]

    if direction != "backward":
        return Step(lambda: [forward().detach()], forward if training else None, (weight, bias))
    output = forward()
    gradient = target.place(torch.randn(output.shape, generator=generator), layout)
    inputs = (x, weight, bias)
    return Step(lambda: torch.autograd.grad(output, inputs, gradient, retain_graph=True), forward, (weight, bias))


def test_bn_relu_max_pool2d(run_case):
    run_case()
