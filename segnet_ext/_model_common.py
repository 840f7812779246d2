"""What the fast and the reference models share: argument checks and the authors' initialisation. No kernel is used."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def check_arguments(name: str, num_classes: int, in_channels: int, dropout: float) -> None:
    """Raise ValueError, naming the argument, unless a model can be built from these."""
    if num_classes < 1:
        raise ValueError(f"{name}: num_classes must be at least 1, got {num_classes}")
    if in_channels < 1:
        raise ValueError(f"{name}: in_channels must be at least 1, got {in_channels}")
    if not 0 <= dropout < 1:
        raise ValueError(f"{name}: dropout must be in [0, 1), got {dropout}")


def check_width(name: str, width: int, argument: str = "width") -> None:
    """Raise ValueError unless ``width`` channels can be had."""
    if width < 1:
        raise ValueError(f"{name}: {argument} must be at least 1, got {width}")


def check_input(name: str, input: torch.Tensor, in_channels: int, min_size: int) -> None:
    """Raise ValueError unless ``input`` is a batch of images that survives every pooling."""
    fits = input.dim() == 4 and input.shape[1] == in_channels
    if not fits or input.shape[2] < min_size or input.shape[3] < min_size:
        raise ValueError(
            f"{name}: input must be [N, {in_channels}, H, W] with H, W >= {min_size}, got {list(input.shape)}"
        )


def dropout_layer(p: float) -> nn.Module:
    """Dropout, or nothing at all for p = 0: nn.Dropout(0.0) would still draw and apply a mask."""
    return nn.Dropout(p) if p > 0 else nn.Identity()


def max_unpool2d(x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Pooled map [N, C, OH, OW] and torch's indices to the unpooled map [N, C, H, W] of ``size`` (H, W)."""
    # Unpooling only moves values, so going through float32 is exact; older torch has no half kernel for it on the CPU.
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return F.max_unpool2d(wide, indices, (2, 2), (2, 2), output_size=tuple(size)).to(x.dtype)


@torch.no_grad()
def initialise(model: nn.Module, bn_bias: float) -> None:
    """The fillers of the authors' prototxt files.

    Convolutions: "msra" (Caffe's default variance norm: normal, variance 2 / fan_in), bias 0. BatchNorm: weight 1 and
    bias ``bn_bias``.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.constant_(module.bias, bn_bias)


@torch.no_grad()
def bilinear_upsampling(model: nn.Module) -> None:
    """Start every transposed convolution as bilinear interpolation to ``stride`` times the size, channel by channel.

    Kernels are square, even and at least twice the stride. Away from the border the result is that of
    ``F.interpolate(scale_factor=stride, mode="bilinear")``.
    """
    for module in model.modules():
        if isinstance(module, nn.ConvTranspose2d):
            size, factor = module.kernel_size[0], module.stride[0]
            distances = (torch.arange(size) - (size - 1) / 2).abs()
            line = (1 - distances / factor).clamp(min=0)
            nn.init.zeros_(module.weight)
            for channel in range(module.in_channels):
                module.weight[channel, channel] = torch.outer(line, line)
