"""bn_relu_conv2d against F.batch_norm, F.relu and F.conv2d in training, between the convolutions of a stage."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from harness import COMPILED, SMALL_SIDES, STAGES, Step, Target, compiled, layout_of
from torch import Tensor

from segnet_ext.ops import bn_relu_conv2d

# N, in channels, out channels, H, W, for one 360x480 image.
SHAPES = {name: (n, c, c, h, w) for name, (n, c, h, w) in STAGES.items()}
SMALL = [(1, 64, 64, side, side) for side in SMALL_SIDES]
REPORT = {"forward": list(STAGES), "backward": list(STAGES)}
DEFAULT = ["stage1", "stage4"]
TINY = (1, 16, 16, 24, 32)
DIRECTIONS = ["forward", "backward"]
TOLERANCE = 1e-4
SECONDS = 5.0


def unfused(x: Tensor, bn_weight: Tensor, bn_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(F.relu(F.batch_norm(x, None, None, bn_weight, bn_bias, training=True)), weight, bias, padding=1)


def fused(x: Tensor, bn_weight: Tensor, bn_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return bn_relu_conv2d(x, bn_weight, bn_bias, None, None, weight, bias, training=True)


def build(variant: str, direction: str, shape: Sequence[int], target: Target) -> Step:
    n, in_channels, out_channels, height, width = shape
    generator = torch.Generator().manual_seed(0)
    layout = layout_of(variant, target)
    # No value comes near the mean, where rounding would decide whether ReLU lets its gradient through.
    values = torch.randn(n, in_channels, height, width, generator=generator)
    x = target.place(values + values.sign() / 4, layout)
    del values
    weight = torch.randn(out_channels, in_channels, 3, 3, generator=generator) / (in_channels**0.5 * 3)
    bn = target.place(torch.rand(in_channels, generator=generator) + 0.5), target.place(torch.zeros(in_channels))
    parameters = (*bn, target.place(weight, layout), target.place(torch.randn(out_channels, generator=generator)))
    inputs = (x, *parameters)
    for tensor in inputs:
        tensor.requires_grad_()
    function = fused if variant == "ours" else compiled(unfused) if variant == COMPILED else unfused

    def forward() -> Tensor:
        return function(*inputs)

    if direction == "forward":
        return Step(lambda: [forward().detach()], forward, parameters)
    output = forward()
    gradient = target.place(torch.randn(output.shape, generator=generator), layout)
    return Step(lambda: torch.autograd.grad(output, inputs, gradient, retain_graph=True), forward, parameters)


def test_bn_relu_conv2d(run_case):
    run_case()
