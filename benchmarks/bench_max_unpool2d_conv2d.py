"""max_unpool2d_conv2d against F.max_unpool2d and F.conv2d, at the starts of the decoder stages of both models."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from harness import COMPILED, SMALL_SIDES, STAGES, Step, Target, compiled, layout_of
from torch import Tensor

from segnet_ext.ops import max_pool2d_with_codes, max_unpool2d_conv2d

# N, in channels, out channels, kernel, and the output's H, W, for one 360x480 image.
SHAPES = {name: (n, c, c, 3, h, w) for name, (n, c, h, w) in STAGES.items()} | {"basic2": (1, 64, 64, 7, 180, 240)}
SMALL = [(1, 64, 64, 3, side, side) for side in SMALL_SIDES]
REPORT = {"forward": list(STAGES), "backward": list(STAGES)}
BFLOAT16 = ["forward"]
DEFAULT = ["stage1", "stage4", "basic2"]
TINY = (1, 16, 16, 3, 24, 32)
DIRECTIONS = ["inference", "forward", "backward"]
TOLERANCE = 1e-4
SECONDS = 5.0


def unfused(x: Tensor, indices: Tensor, weight: Tensor, bias: Tensor, size: Sequence[int]) -> Tensor:
    return F.conv2d(F.max_unpool2d(x, indices, 2, 2, output_size=size), weight, bias, padding=weight.shape[-1] // 2)


def multiply_adds(direction: str, shape: Sequence[int]) -> int:
    """Of the convolution of the unpooled map, zeros included; its backward is two such convolutions."""
    n, in_channels, out_channels, kernel, height, width = shape
    return n * in_channels * out_channels * kernel**2 * height * width * (2 if direction == "backward" else 1)


def build(variant: str, direction: str, shape: Sequence[int], target: Target) -> Step:
    n, in_channels, out_channels, kernel, height, width = shape
    generator = torch.Generator().manual_seed(0)
    layout, size = layout_of(variant, target), (height, width)
    # Codes of a rectified map, as they are in the models: about half of its values are 0.
    unpooled = F.relu(torch.randn(n, in_channels, height, width, generator=generator))
    pooled, indices = F.max_pool2d(unpooled, 2, 2, ceil_mode=True, return_indices=True)
    _, codes = max_pool2d_with_codes(unpooled, ceil_mode=True)
    del unpooled
    x, indices, codes = target.place(pooled, layout), target.place(indices, layout), codes.to(target.device)
    weight = torch.randn(out_channels, in_channels, kernel, kernel, generator=generator) / (in_channels**0.5 * kernel)
    weight, bias = target.place(weight, layout), target.place(torch.randn(out_channels, generator=generator))
    for tensor in (x, weight, bias):
        tensor.requires_grad_(direction != "inference")
    torchs = compiled(unfused) if variant == COMPILED else unfused
    del pooled
    if variant == "ours":
        del indices

    def forward() -> Tensor:
        if variant == "ours":
            return max_unpool2d_conv2d(x, codes, weight, bias, size)
        return torchs(x, indices, weight, bias, size)

    if direction != "backward":
        return Step(lambda: [forward().detach()], forward if direction == "forward" else None, (weight, bias))
    output = forward()
    gradient = target.place(torch.randn(output.shape, generator=generator), layout)
    inputs = (x, weight, bias)
    return Step(lambda: torch.autograd.grad(output, inputs, gradient, retain_graph=True), forward, (weight, bias))


def test_max_unpool2d_conv2d(run_case):
    run_case()
