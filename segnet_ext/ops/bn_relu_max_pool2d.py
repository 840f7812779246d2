"""BatchNorm, ReLU and 2x2, stride-2 max pooling in one pass, without the maps in between."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segnet_ext._extension import _C
from segnet_ext.ops._batch_norm import batch_norm_statistics, check_running_stats, per_channel, update_running_stats
from segnet_ext.ops._common import empty_codes, empty_map, is_plain, operator, pooled_size


def bn_relu_max_pool2d(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """``max_pool2d(relu(batch_norm(input)))`` with 2x2 windows at stride 2, and the winners' codes.

    Neither the normalised nor the rectified map is made. Backward keeps ``input``, the statistics and the codes, and
    computes the normalised value of each winner again; after training in float32 or float64 it keeps ``output`` too,
    which a convolution behind it keeps anyway, and which must then not be changed in place. In float16 and bfloat16 the
    normalised value is rounded to the input's dtype before values are compared, so that ties fall as they do in the
    unfused operations.

    Args:
        input: map [N, C, H, W]; float32, float64, bfloat16 or float16; any layout (channels_last is not copied).
        weight, bias: BatchNorm's scale and shift, [C], of the dtype of ``input`` or, for the half types, float32; None
            stands for ones and zeros.
        running_mean, running_var: [C], dtypes as for ``weight``. In training they are updated in place when given, the
            variance without bias; otherwise they are the statistics.
        training: normalise with the batch's own mean and biased variance.
        momentum: weight of the batch in the running statistics' update.
        eps: added to the variance.
        ceil_mode: give an odd last row or column windows of its own, of one row or column; otherwise it is left out of
            the pool (and still counts in the statistics).

    Returns:
        ``output`` [N, C, OH, OW], channels_last, and ``codes``, uint8 [N, OH, OW, ceil(C / 4)] as
        :func:`max_pool2d_with_codes` gives them.

    Raises:
        ValueError: a shape is wrong, ``input`` has no whole window, or one value a channel only in training; running
            statistics are missing outside training.
        TypeError: a dtype is wrong.
        RuntimeError: a tensor is on another device than ``input``.

    Source: the end of every encoder stage, section 3 of the SegNet paper (``conv*_bn``, ``relu*``, ``pool*`` of its
    prototxt files); semantics of ``F.batch_norm``, ``F.relu`` and ``F.max_pool2d``.

    Example:
        >>> import torch
        >>> from segnet_ext.ops import bn_relu_max_pool2d
        >>> output, codes = bn_relu_max_pool2d(torch.randn(2, 64, 45, 60), training=True, ceil_mode=True)
        >>> output.shape, codes.shape
        (torch.Size([2, 64, 23, 30]), torch.Size([2, 23, 30, 16]))
    """
    check_running_stats("bn_relu_max_pool2d", running_mean, running_var, training)
    if is_plain(input, weight, bias, running_mean, running_var):
        try:
            return _C.bn_relu_max_pool2d_call(
                input, weight, bias, running_mean, running_var, training, momentum, eps, ceil_mode
            )
        except TypeError:  # below it names the argument that pybind11 only shows
            pass
    mean, var = batch_norm_statistics("bn_relu_max_pool2d", input, running_mean, running_var, training)
    result = _forward(input, weight, bias, mean, var, training, eps, ceil_mode)
    if training and running_mean is not None and running_var is not None:
        # Last, so that an argument that is refused leaves them as they were.
        update_running_stats(input, mean, var, running_mean, running_var, momentum)
    return result


# The statistics are arguments, not results: the gradient they carry in training is part of the formula for input's.
@operator("bn_relu_max_pool2d")
def _forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    batch_statistics: bool,
    eps: float,
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]:
    return _C.bn_relu_max_pool2d_forward(input, weight, bias, mean, var, eps, ceil_mode)


@_forward.register_fake
def _(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    batch_statistics: bool,
    eps: float,
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]:
    _, channels, height, width = input.shape
    pooled = pooled_size(height, ceil_mode), pooled_size(width, ceil_mode)
    return empty_map(input, channels, *pooled), empty_codes(input, channels, *pooled)


@operator("bn_relu_max_pool2d_backward")
def _backward(
    grad_output: Tensor,
    input: Tensor,
    codes: Tensor,
    output: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    batch_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _C.bn_relu_max_pool2d_backward(
        grad_output, input, codes, output, weight, bias, mean, var, eps, batch_statistics
    )


@_backward.register_fake
def _(
    grad_output: Tensor,
    input: Tensor,
    codes: Tensor,
    output: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    batch_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_map(input, *input.shape[1:]), per_channel(input), per_channel(input)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, weight, bias, mean, var, ctx.batch_statistics, ctx.eps, _ = inputs
    wants_output = ctx.batch_statistics and input.dtype in (torch.float32, torch.float64)
    ctx.save_for_backward(input, output[1], output[0] if wants_output else None, weight, bias, mean, var)


def _autograd(ctx: Any, grad_output: Tensor, _grad_codes: None) -> tuple[Tensor | None, ...]:
    input, codes, output, weight, bias, mean, var = ctx.saved_tensors
    grad_input, grad_weight, grad_bias = _backward(
        grad_output, input, codes, output, weight, bias, mean, var, ctx.eps, ctx.batch_statistics
    )
    return (
        grad_input if ctx.needs_input_grad[0] else None,
        grad_weight.to(weight.dtype) if ctx.needs_input_grad[1] else None,
        grad_bias.to(bias.dtype) if ctx.needs_input_grad[2] else None,
        *[None] * 5,
    )


_forward.register_autograd(_autograd, _setup_context)
_backward.refuse_double_backward("bn_relu_max_pool2d")
