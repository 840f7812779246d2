"""BatchNorm's statistics, as the operations that begin with a BatchNorm share them."""

from __future__ import annotations

import torch
from torch import Tensor

from segnet_ext._extension import _C
from segnet_ext.ops._common import is_plain, operator


def check_running_stats(op: str, running_mean: Tensor | None, running_var: Tensor | None, training: bool) -> None:
    """Raises ValueError unless both are given or, in training, neither."""
    if (running_mean is None) != (running_var is None) or not (training or running_mean is not None):
        raise ValueError(
            f"{op}: running_mean and running_var must both be given, or in training neither; got "
            f"running_mean {_shape(running_mean)}, running_var {_shape(running_var)}, training {training}"
        )


def batch_norm_statistics(
    op: str, input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, training: bool
) -> tuple[Tensor, Tensor]:
    """The mean and biased variance to normalise ``input`` with: the batch's own in training, else the running ones.

    For running statistics that :func:`check_running_stats` let pass.
    """
    if not training:
        assert running_mean is not None and running_var is not None
        return running_mean, running_var
    mean, var = _stats(input.detach())
    for name, running in (("running_mean", running_mean), ("running_var", running_var)):
        if running is not None and running.shape != mean.shape:
            raise ValueError(f"{op}: {name} must have shape {list(mean.shape)} (C), got {list(running.shape)}")
    return mean, var


def _shape(tensor: Tensor | None) -> str:
    return "None" if tensor is None else str(tuple(tensor.shape))


def batch_moments(input: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of a map [N, C, H, W], without a gradient; of none they are 0."""
    if input.numel() == input.shape[1]:  # one value a channel, which the kernel refuses
        mean = input.detach().reshape(-1).to(per_channel(input).dtype)
        return mean, torch.zeros_like(mean)
    return _stats(input.detach())


def update_running_stats(
    input: Tensor, mean: Tensor, var: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float
) -> None:
    """Move running statistics in place towards a batch's, the variance without bias."""
    count = input.numel() // input.shape[1]
    if is_plain(input, running_mean, running_var):
        _C.update_running_stats(mean, var, count, running_mean, running_var, momentum)
    elif count > 0:  # an empty batch says nothing about the data
        move_running_stats(mean, var * (count / (count - 1)), running_mean, running_var, momentum)


def move_running_stats(
    mean: Tensor, unbiased_var: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float
) -> None:
    """Move running statistics in place towards these."""
    for running, batch in ((running_mean, mean), (running_var, unbiased_var)):
        if running.dtype == batch.dtype:
            running.lerp_(batch, momentum)
        else:  # in the batch's precision, rounded once
            running.copy_(torch.lerp(running.to(batch.dtype), batch, momentum))


@operator("bn_relu_max_pool2d_stats")
def _stats(input: Tensor) -> tuple[Tensor, Tensor]:
    return _C.bn_relu_max_pool2d_stats(input)


@_stats.register_fake
def _(input: Tensor) -> tuple[Tensor, Tensor]:
    return per_channel(input), per_channel(input)


def per_channel(input: Tensor) -> Tensor:
    """An uninitialised vector [C] of the type that the statistics of ``input`` have."""
    return input.new_empty(input.shape[1], dtype=torch.float64 if input.dtype == torch.float64 else torch.float32)
