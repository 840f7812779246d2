"""Max unpooling and convolution in one operation, without the unpooled map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segnet_ext._extension import _C
from segnet_ext.ops._common import autocast, empty_map, is_channels_last, operator, unpooled_size, weight_format


def max_unpool2d_conv2d(
    input: Tensor,
    codes: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    output_size: Sequence[int] | None = None,
    relu: bool = False,
) -> Tensor:
    """``conv2d(max_unpool2d(input, codes), weight, bias)`` at stride 1 with the padding that keeps the size.

    The unpooled map, three quarters zeros, is never made, and on the CPU its zeros are not multiplied. Backward keeps
    the pooled map and the codes (and the output, with ``relu``). Sums run in float32 for the half types. On CUDA 9.0
    to 11.x the half types, and float32 where torch lets convolutions use tf32, are convolved by cuDNN: faster there,
    although the unpooled map is made for the moment. The environment variable ``SEGNET_EXT_CUDA_CONV=fused``, read
    once, leaves nothing to it.

    Args:
        input: pooled map [N, C, OH, OW]; float32, float64, bfloat16 or float16; any layout (channels_last is not
            copied).
        codes: uint8 [N, OH, OW, ceil(C / 4)], contiguous, as :func:`max_pool2d_with_codes` gives them. A code that
            points past a ragged edge of the output is moved to the last row or column.
        weight: [K, C, k, k] with an odd k, of the dtype of ``input``.
        bias: [K], of the dtype of ``input``, or None.
        output_size: size of the unpooled map, whose last two numbers are (H, W), each within one of twice the pooled
            size; None stands for exactly twice. Pass the size that was pooled.
        relu: apply ReLU to the result.

    Returns:
        [N, K, H, W], channels_last. Under autocast the arguments are cast as ``F.conv2d``'s are.

    Raises:
        ValueError: a shape is wrong, the kernel is even or not square, ``codes`` is not contiguous, or ``output_size``
            is impossible.
        TypeError: a dtype is wrong.
        RuntimeError: a tensor is on another device than ``input``.

    Source: the start of every decoder stage, section 3 of the SegNet paper (``upsample*`` and the first ``conv*_D`` of
    its prototxt files); semantics of ``F.max_unpool2d`` and ``F.conv2d``.

    Example:
        >>> import torch
        >>> from segnet_ext.ops import max_pool2d_with_codes, max_unpool2d_conv2d
        >>> x = torch.randn(1, 64, 45, 60)
        >>> pooled, codes = max_pool2d_with_codes(x, ceil_mode=True)
        >>> max_unpool2d_conv2d(pooled, codes, torch.randn(32, 64, 3, 3), output_size=x.shape).shape
        torch.Size([1, 32, 45, 60])
    """
    height, width = unpooled_size("max_unpool2d_conv2d", input, output_size)
    input, weight, bias = autocast(input), autocast(weight), None if bias is None else autocast(bias)
    return _forward(input, codes, weight, bias, height, width, relu)


@operator("max_unpool2d_conv2d")
def _forward(
    input: Tensor, codes: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int, relu: bool
) -> Tensor:
    return _C.max_unpool2d_conv2d_forward(input, codes, weight, bias, height, width, relu)


@_forward.register_fake
def _(input: Tensor, codes: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int, relu: bool) -> Tensor:
    return empty_map(input, weight.shape[0], height, width)


@operator("max_unpool2d_conv2d_grad_input")
def _grad_input(grad_output: Tensor, codes: Tensor, weight: Tensor, pooled_height: int, pooled_width: int) -> Tensor:
    return _C.max_unpool2d_conv2d_grad_input(grad_output, codes, weight, pooled_height, pooled_width)


@_grad_input.register_fake
def _(grad_output: Tensor, codes: Tensor, weight: Tensor, pooled_height: int, pooled_width: int) -> Tensor:
    return empty_map(grad_output, weight.shape[1], pooled_height, pooled_width)


@operator("max_unpool2d_conv2d_grad_weight")
def _grad_weight(grad_output: Tensor, input: Tensor, codes: Tensor, kernel_size: int, channels_last: bool) -> Tensor:
    return _C.max_unpool2d_conv2d_grad_weight(grad_output, input, codes, kernel_size, channels_last)


@_grad_weight.register_fake
def _(grad_output: Tensor, input: Tensor, codes: Tensor, kernel_size: int, channels_last: bool) -> Tensor:
    size = grad_output.shape[1], input.shape[1], kernel_size, kernel_size
    return torch.empty(size, dtype=input.dtype, device=input.device, memory_format=weight_format(channels_last))


@operator("conv_bias_grad")
def conv_bias_grad(grad_output: Tensor) -> Tensor:
    """The gradient of a convolution's bias, [K]."""
    return _C.conv_bias_grad(grad_output)


@conv_bias_grad.register_fake
def _(grad_output: Tensor) -> Tensor:
    return grad_output.new_empty(grad_output.shape[1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, codes, weight, _, _, _, relu = inputs
    # Where ReLU cut can only be told from its result, which the next layer keeps anyway.
    ctx.save_for_backward(input, codes, weight, output if relu else None)


def _autograd(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, codes, weight, output = ctx.saved_tensors
    grad_input = grad_weight = grad_bias = None
    if output is not None:
        grad_output = torch.ops.aten.threshold_backward(grad_output, output, 0)
    grad_output = grad_output.contiguous(memory_format=torch.channels_last)  # once for all that read it
    if ctx.needs_input_grad[0]:
        grad_input = _grad_input(grad_output, codes, weight, *input.shape[2:])
    if ctx.needs_input_grad[2]:
        grad_weight = _grad_weight(grad_output, input, codes, weight.shape[-1], is_channels_last(weight))
    if ctx.needs_input_grad[3]:
        grad_bias = conv_bias_grad(grad_output)
    return grad_input, None, grad_weight, grad_bias, *[None] * 3


def _eager(*args: Any) -> Tensor:
    return _C.max_unpool2d_conv2d_call(*args)


_forward.register_autograd(_autograd, _setup_context, _eager)
_grad_input.refuse_double_backward("max_unpool2d_conv2d")
_grad_weight.refuse_double_backward("max_unpool2d_conv2d")
conv_bias_grad.refuse_double_backward("conv2d")
