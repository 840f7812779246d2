"""2x2, stride-2 max pooling whose winners are remembered in two bits a window."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from segnet_ext._extension import _C
from segnet_ext.ops._common import empty_codes, empty_map, operator, pooled_size


def max_pool2d_with_codes(input: Tensor, ceil_mode: bool = False) -> tuple[Tensor, Tensor]:
    """Max-pools 2x2 windows at stride 2 and says in two bits which pixel of each window won.

    The result and its gradient are those of ``F.max_pool2d(input, 2, 2, return_indices=True)``: the first of equal
    values wins, in row-major order, and NaN wins over all. The codes take a 32nd of the memory of its int64 indices.

    Args:
        input: map [N, C, H, W]; float32, float64, bfloat16 or float16; any layout (channels_last is not copied).
        ceil_mode: give an odd last row or column windows of its own, of one row or column; otherwise it is left out.

    Returns:
        ``output`` [N, C, OH, OW], channels_last, and ``codes``, uint8 [N, OH, OW, ceil(C / 4)]: ``2 * row + col`` of
        the winner inside its window, channel ``c`` in bits ``2 * (c % 4)`` of byte ``c // 4``.

    Raises:
        ValueError: ``input`` is not 4-D, has an empty dimension other than the batch, or has no whole window.
        TypeError: ``input`` is of another dtype.

    Source: "max-pooling indices" of section 3 of the SegNet paper, which notes that two bits a 2x2 window suffice.

    Example:
        >>> import torch
        >>> from segnet_ext.ops import codes_to_indices, max_pool2d_with_codes
        >>> output, codes = max_pool2d_with_codes(torch.tensor([[[[1.0, 2.0], [3.0, 0.0]]]]))
        >>> output.item(), codes.item(), codes_to_indices(codes, (1, 1, 2, 2)).item()
        (3.0, 2, 2)
    """
    return _forward(input, ceil_mode)


@operator("max_pool2d_with_codes")
def _forward(input: Tensor, ceil_mode: bool) -> tuple[Tensor, Tensor]:
    return _C.max_pool2d_with_codes_forward(input, ceil_mode)


@_forward.register_fake
def _(input: Tensor, ceil_mode: bool) -> tuple[Tensor, Tensor]:
    _, channels, height, width = input.shape
    pooled = pooled_size(height, ceil_mode), pooled_size(width, ceil_mode)
    return empty_map(input, channels, *pooled), empty_codes(input, channels, *pooled)


@operator("max_pool2d_with_codes_backward")
def _backward(grad_output: Tensor, codes: Tensor, height: int, width: int) -> Tensor:
    return _C.max_pool2d_with_codes_backward(grad_output, codes, height, width)


@_backward.register_fake
def _(grad_output: Tensor, codes: Tensor, height: int, width: int) -> Tensor:
    return empty_map(grad_output, grad_output.shape[1], height, width)


def _setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.size = inputs[0].shape[2:]


def _autograd(ctx: Any, grad_output: Tensor, _grad_codes: None) -> tuple[Tensor, None]:
    (codes,) = ctx.saved_tensors
    return _backward(grad_output, codes, *ctx.size), None


def _eager(*args: Any) -> tuple[Tensor, Tensor]:
    return _C.max_pool2d_with_codes_call(*args)


_forward.register_autograd(_autograd, _setup_context, _eager)
_backward.refuse_double_backward("max_pool2d_with_codes")
