"""Convolutions that normalise and rectify what they read: BatchNorm, ReLU, max unpooling and conv in one operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segnet_ext._extension import _C
from segnet_ext.ops._batch_norm import batch_norm_statistics, check_running_stats, per_channel, update_running_stats
from segnet_ext.ops._common import (
    autocast,
    empty_codes,
    empty_map,
    is_channels_last,
    is_plain,
    operator,
    pooled_size,
    unpooled_size,
    weight_format,
)
from segnet_ext.ops.max_pool2d_with_codes import max_pool2d_with_codes
from segnet_ext.ops.max_unpool2d_conv2d import conv_bias_grad

# Below this many channels in or out, Winograd's transforms cost more than they save.
_MIN_IN_CHANNELS, _MIN_OUT_CHANNELS = 16, 8


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """``conv2d(input, weight, bias)`` at stride 1 with the padding that keeps the size, then ReLU if asked for.

    On the CPU, 3x3 kernels with at least 16 channels in and 8 out run by Winograd's F(4x4, 3x3), a quarter of the
    multiplications, the half types by F(6x6, 3x3), or over maps of a few pixels by the sum over taps; all others are
    ``F.conv2d``. By Winograd's, a NaN or an infinity reaches the blocks of 4x4 or 6x6 outputs that it has a part in,
    not only its own neighbours.

    Args:
        input: map [N, C, H, W]; float32, float64, bfloat16 or float16; any layout (channels_last is not copied).
        weight: [K, C, k, k] with an odd k, of the dtype of ``input``.
        bias: [K], of the dtype of ``input``, or None.
        relu: apply ReLU to the result.

    Returns:
        [N, K, H, W], channels_last. Under autocast the arguments are cast as ``F.conv2d``'s are.

    Raises:
        ValueError: a shape is wrong, or the kernel is even or not square.
        TypeError: a dtype is wrong.
        RuntimeError: a tensor is on another device than ``input``.

    Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.

    Example:
        >>> import torch
        >>> from segnet_ext.ops import conv2d
        >>> conv2d(torch.randn(1, 64, 45, 60), torch.randn(32, 64, 3, 3)).shape
        torch.Size([1, 32, 45, 60])
    """
    input, weight, bias = autocast(input), autocast(weight), None if bias is None else autocast(bias)
    _check_convolution("conv2d", input, weight)
    height, width = input.shape[-2:]
    if is_plain(input, weight, bias) and _has_kernel(input, weight):
        try:
            return _C.bn_relu_conv2d_call(
                input, False, None, None, None, None, False, 0.0, 0.0, None, height, width, weight, bias, relu
            )
        except TypeError:  # below it names the argument that pybind11 only shows
            pass
    return _forward(input, None, None, None, None, False, 0.0, None, height, width, weight, bias, relu)


def bn_relu_conv2d(
    input: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    codes: Tensor | None = None,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """``conv2d(relu(batch_norm(input)), weight, bias)``, or with ``codes`` the convolution of the max unpool of that.

    Neither the normalised, nor the rectified, nor the unpooled map is kept for backward, which computes them again from
    ``input``; on the CPU, with a 3x3 kernel, they are never made, and on CUDA cuDNN convolves. A chain of such
    operations keeps one map a layer, its convolution's result, where the unfused layers keep two.

    Args:
        input: map [N, C, H, W], or with ``codes`` pooled map [N, C, OH, OW]; float32, float64, bfloat16 or float16; any
            layout (channels_last is not copied).
        bn_weight, bn_bias: BatchNorm's scale and shift, [C], of the dtype of ``input`` or, for the half types, float32;
            None stands for ones and zeros.
        running_mean, running_var: [C], dtypes as for ``bn_weight``. In training they are updated in place when given,
            the variance without bias; otherwise they are the statistics.
        weight: the convolution's, [K, C, k, k] with an odd k, of the dtype of ``input``.
        bias: the convolution's, [K], of the dtype of ``input``, or None.
        training: normalise with the batch's own mean and biased variance.
        momentum: weight of the batch in the running statistics' update.
        eps: added to the variance.
        codes: uint8 [N, OH, OW, ceil(C / 4)], contiguous, as :func:`max_pool2d_with_codes` gives them.
        output_size: with ``codes``, the size of the unpooled map as in :func:`max_unpool2d_conv2d`.

    Returns:
        [N, K, H, W], channels_last. Under autocast the convolution's dtype is that of ``F.conv2d``.

    Raises:
        ValueError: a shape is wrong, the kernel is even or not square, ``codes`` is not contiguous, ``output_size`` is
            impossible or given without ``codes``, running statistics are missing outside training, or one value a
            channel only is there in training.
        TypeError: a dtype is wrong.
        RuntimeError: a tensor is on another device than ``input``.

    Source: the layers between two pools or unpools, section 3 of the SegNet paper (``conv*_bn``, ``relu*`` and the next
    ``conv*`` of its prototxt files).

    Example:
        >>> import torch
        >>> from segnet_ext.ops import bn_relu_conv2d
        >>> x, weight = torch.randn(2, 64, 45, 60), torch.randn(32, 64, 3, 3)
        >>> bn_relu_conv2d(x, None, None, None, None, weight, training=True).shape
        torch.Size([2, 32, 45, 60])
    """
    op = "bn_relu_conv2d"
    if codes is not None:
        height, width = unpooled_size(op, input, output_size)
    elif output_size is not None:
        raise ValueError(f"{op}: output_size must be None unless codes are given, got {output_size}")
    else:
        height, width = input.shape[-2:]
    input, weight, bias = autocast(input), autocast(weight), None if bias is None else autocast(bias)
    _check_convolution(op, input, weight)
    check_running_stats(op, running_mean, running_var, training)
    vectors = bn_weight, bn_bias, running_mean, running_var
    if is_plain(input, *vectors, codes, weight, bias) and _has_kernel(input, weight):
        try:
            return _C.bn_relu_conv2d_call(
                input, True, *vectors, training, momentum, eps, codes, height, width, weight, bias, False
            )
        except TypeError:
            pass
    mean, var = batch_norm_statistics(op, input, running_mean, running_var, training)
    output = _forward(input, bn_weight, bn_bias, mean, var, training, eps, codes, height, width, weight, bias, False)
    if training and running_mean is not None and running_var is not None:
        # Last, so that an argument that is refused leaves them as they were.
        update_running_stats(input, mean, var, running_mean, running_var, momentum)
    return output


def _check_convolution(op: str, input: Tensor, weight: Tensor) -> None:
    if input.dim() != 4:
        raise ValueError(f"{op}: input must have 4 dimensions (N, C, H, W), got {list(input.shape)}")
    if weight.dim() != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0:
        raise ValueError(f"{op}: weight must be [K, C, k, k] with an odd k, got {list(weight.shape)}")
    if weight.shape[1] != input.shape[1]:
        raise ValueError(
            f"{op}: weight must have as many input channels as input ({input.shape[1]}), got {list(weight.shape)}"
        )


def _has_kernel(input: Tensor, weight: Tensor) -> bool:
    """Whether the extension convolves; else torch does, or max_unpool2d_conv2d."""
    if input.device.type != "cpu":
        return True
    out_channels, in_channels, size, _ = weight.shape
    return size == 3 and in_channels >= _MIN_IN_CHANNELS and out_channels >= _MIN_OUT_CHANNELS


def conv2d_relu_max_pool2d(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``max_pool2d(relu(conv2d(input, weight, bias)))`` with 2x2 windows in ceil mode, and the winners' codes.

    For inference, with BatchNorm folded into the convolution: on the CPU, with a 3x3 kernel, the convolution's map is
    never made. There is no gradient; :func:`conv2d` and :func:`max_pool2d_with_codes` have one.

    Args:
        input: map [N, C, H, W]; float32, float64, bfloat16 or float16; any layout (channels_last is not copied).
        weight: [K, C, k, k] with an odd k, of the dtype of ``input``.
        bias: [K], of the dtype of ``input``, or None.

    Returns:
        ``output`` [N, K, ceil(H / 2), ceil(W / 2)], channels_last, and ``codes``, uint8 [N, OH, OW, ceil(K / 4)] as
        :func:`max_pool2d_with_codes` gives them.

    Raises:
        ValueError: a shape is wrong, or the kernel is even or not square.
        TypeError: a dtype is wrong.
        RuntimeError: a tensor is on another device than ``input``, or a gradient is asked for.

    Source: the end of every encoder stage, section 3 of the SegNet paper.

    Example:
        >>> import torch
        >>> from segnet_ext.ops import conv2d_relu_max_pool2d
        >>> output, codes = conv2d_relu_max_pool2d(torch.randn(1, 64, 45, 60), torch.randn(32, 64, 3, 3))
        >>> output.shape, codes.shape
        (torch.Size([1, 32, 23, 30]), torch.Size([1, 23, 30, 8]))
    """
    input, weight, bias = autocast(input), autocast(weight), None if bias is None else autocast(bias)
    _check_convolution("conv2d_relu_max_pool2d", input, weight)
    return _pooled_forward(input, weight, bias)


@operator("conv2d_relu_max_pool2d")
def _pooled_forward(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    if _has_kernel(input, weight):
        return _C.conv2d_relu_max_pool2d(input, weight, bias)
    return max_pool2d_with_codes(_convolve(input, weight, bias, relu=True), ceil_mode=True)


@_pooled_forward.register_fake
def _(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    pooled = pooled_size(input.shape[2], True), pooled_size(input.shape[3], True)
    return empty_map(input, weight.shape[0], *pooled), empty_codes(input, weight.shape[0], *pooled)


# Mean and var are arguments, not results: the gradient they carry in training is part of the formula for input's.
@operator("bn_relu_conv2d")
def _forward(
    input: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    batch_statistics: bool,
    eps: float,
    codes: Tensor | None,
    height: int,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
) -> Tensor:
    if _has_kernel(input, weight):
        return _C.bn_relu_conv2d_forward(
            input, bn_weight, bn_bias, mean, var, eps, codes, height, width, weight, bias, relu
        )
    _C.bn_relu_conv2d_check(input, bn_weight, bn_bias, mean, var, codes, height, width, weight, bias)
    operand = _operand(input, bn_weight, bn_bias, mean, var, eps)
    if codes is not None:
        return _C.max_unpool2d_conv2d_forward(operand, codes, weight, bias, height, width, relu)
    return _convolve(operand, weight, bias, relu)


@_forward.register_fake
def _(
    input: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    batch_statistics: bool,
    eps: float,
    codes: Tensor | None,
    height: int,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
) -> Tensor:
    return empty_map(input, weight.shape[0], height, width)


def _convolve(operand: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """torch's convolution, then ReLU if asked for; channels_last."""
    output = F.conv2d(operand, weight, bias, padding=weight.shape[2] // 2)
    return (output.relu_() if relu else output).contiguous(memory_format=torch.channels_last)


def _operand(
    input: Tensor, bn_weight: Tensor | None, bn_bias: Tensor | None, mean: Tensor | None, var: Tensor | None, eps: float
) -> Tensor:
    """The normalised and rectified map, for the paths that need it made."""
    if mean is None or var is None:
        return input
    mean, var, bn_weight, bn_bias = _in_accumulation_type(input, mean, var, bn_weight, bn_bias)
    return F.relu(F.batch_norm(input, mean, var, bn_weight, bn_bias, training=False, eps=eps))


def _in_accumulation_type(input: Tensor, *vectors: Tensor | None) -> list[Tensor | None]:
    """A BatchNorm's vectors in the type of its statistics: torch wants all of them in one."""
    dtype = per_channel(input).dtype
    return [None if vector is None else vector.to(dtype) for vector in vectors]


@operator("bn_relu_conv2d_grad_input")
def _grad_input(
    grad_output: Tensor,
    input: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    batch_statistics: bool,
    eps: float,
    codes: Tensor | None,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    if _has_kernel(input, weight):
        return _C.bn_relu_conv2d_grad_input(
            grad_output, input, bn_weight, bn_bias, mean, var, eps, batch_statistics, codes, weight
        )
    if input.numel() == 0:  # torch's batch_norm_backward divides by the number of values
        zeros = input.new_zeros(0) if mean is None else torch.zeros_like(per_channel(input))
        return empty_map(input, *input.shape[1:]), zeros, zeros.clone()
    operand = _operand(input, bn_weight, bn_bias, mean, var, eps)
    if codes is not None:
        grad = _C.max_unpool2d_conv2d_grad_input(grad_output, codes, weight, *input.shape[2:])
    else:
        grad = _convolution_backward(grad_output, operand, weight, [True, False, False])[0]
    if mean is None or var is None:
        return grad.contiguous(memory_format=torch.channels_last), input.new_empty(0), input.new_empty(0)
    grad = torch.ops.aten.threshold_backward(grad, operand, 0)
    bn_weight, mean, var = _in_accumulation_type(input, bn_weight, mean, var)
    assert mean is not None and var is not None
    grad_input, grad_bn_weight, grad_bn_bias = torch.ops.aten.native_batch_norm_backward(
        grad,
        input.contiguous(memory_format=torch.channels_last),
        bn_weight,
        mean,
        var,
        mean,
        (var + eps).rsqrt(),
        batch_statistics,
        eps,
        [True, True, True],
    )
    return grad_input.contiguous(memory_format=torch.channels_last), grad_bn_weight, grad_bn_bias


@_grad_input.register_fake
def _(
    grad_output: Tensor,
    input: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    batch_statistics: bool,
    eps: float,
    codes: Tensor | None,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_input = empty_map(input, *input.shape[1:])
    if mean is None:
        return grad_input, input.new_empty(0), input.new_empty(0)
    return grad_input, per_channel(input), per_channel(input)


@operator("bn_relu_conv2d_grad_weight")
def _grad_weight(
    grad_output: Tensor,
    input: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    codes: Tensor | None,
    weight: Tensor,
) -> Tensor:
    if _has_kernel(input, weight):
        return _C.bn_relu_conv2d_grad_weight(grad_output, input, bn_weight, bn_bias, mean, var, eps, codes, weight)
    channels_last = is_channels_last(weight)
    operand = _operand(input, bn_weight, bn_bias, mean, var, eps)
    if codes is not None:
        return _C.max_unpool2d_conv2d_grad_weight(grad_output, operand, codes, weight.shape[2], channels_last)
    grad_weight = _convolution_backward(grad_output, operand, weight, [False, True, False])[1]
    return grad_weight.contiguous(memory_format=weight_format(channels_last))


@_grad_weight.register_fake
def _(
    grad_output: Tensor,
    input: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    codes: Tensor | None,
    weight: Tensor,
) -> Tensor:
    return torch.empty_like(weight, memory_format=weight_format(is_channels_last(weight)))


def _convolution_backward(
    grad_output: Tensor, operand: Tensor, weight: Tensor, output_mask: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    padding = [weight.shape[2] // 2] * 2
    return torch.ops.aten.convolution_backward(
        grad_output, operand, weight, [weight.shape[0]], [1, 1], padding, [1, 1], False, [0, 0], 1, output_mask
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, bn_weight, bn_bias, mean, var, ctx.batch_statistics, ctx.eps, codes, _, _, weight, _, relu = inputs
    # Where ReLU cut can only be told from its result, which the next layer keeps anyway.
    ctx.save_for_backward(input, bn_weight, bn_bias, mean, var, codes, weight, output if relu else None)


def _autograd(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, bn_weight, bn_bias, mean, var, codes, weight, output = ctx.saved_tensors
    needs_input, needs_bn_weight, needs_bn_bias = ctx.needs_input_grad[:3]
    needs_weight, needs_bias = ctx.needs_input_grad[10:12]
    grad_input = grad_bn_weight = grad_bn_bias = grad_weight = grad_bias = None
    if output is not None:
        grad_output = torch.ops.aten.threshold_backward(grad_output, output, 0)
    grad_output = grad_output.contiguous(memory_format=torch.channels_last)  # once for all that read it
    if needs_weight:
        grad_weight = _grad_weight(grad_output, input, bn_weight, bn_bias, mean, var, ctx.eps, codes, weight)
    if needs_bias:
        grad_bias = conv_bias_grad(grad_output)
    if needs_input or needs_bn_weight or needs_bn_bias:
        grad_input, grad_bn_weight, grad_bn_bias = _grad_input(
            grad_output, input, bn_weight, bn_bias, mean, var, ctx.batch_statistics, ctx.eps, codes, weight
        )
    return (
        grad_input if needs_input else None,
        grad_bn_weight.to(bn_weight.dtype) if grad_bn_weight is not None and needs_bn_weight else None,
        grad_bn_bias.to(bn_bias.dtype) if grad_bn_bias is not None and needs_bn_bias else None,
        *[None] * 7,
        grad_weight,
        grad_bias,
        None,
    )


_forward.register_autograd(_autograd, _setup_context)
_grad_input.refuse_double_backward("bn_relu_conv2d")
_grad_weight.refuse_double_backward("bn_relu_conv2d")
