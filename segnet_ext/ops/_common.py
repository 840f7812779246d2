"""What the operators' registrations share: shapes for fake kernels, and the refusal of second derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch._ops import OpOverload

_LIBRARY = torch.library.Library("segnet_ext", "FRAGMENT")


def operator(name: str) -> Callable[[Callable[..., Any]], OpOverload]:
    """Makes the decorated function the operator ``segnet_ext::name``, for all devices.

    As ``torch.library.custom_op``, which also looks at every call for results that share memory with an argument: that
    takes longer than the kernels take on a small map. The functions here return tensors of their own.
    """

    def define(function: Callable[..., Any]) -> OpOverload:
        schema = torch.library.infer_schema(function, mutates_args=())
        _LIBRARY.define(name + schema, tags=[torch.Tag.pt2_compliant_tag])
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        overload: OpOverload = getattr(torch.ops.segnet_ext, name).default
        return overload

    return define


def empty_map(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """An uninitialised channels_last map [N, channels, height, width] of the batch, dtype and device of ``like``."""
    return torch.empty(
        (like.shape[0], channels, height, width),
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def empty_codes(like: Tensor, channels: int, pooled_height: int, pooled_width: int) -> Tensor:
    """Uninitialised codes uint8 [N, OH, OW, ceil(C / 4)]."""
    return like.new_empty((like.shape[0], pooled_height, pooled_width, (channels + 3) // 4), dtype=torch.uint8)


def pooled_size(size: int, ceil_mode: bool) -> int:
    """Rows or columns that a 2x2, stride-2 pool makes of ``size``."""
    return (size + 1) // 2 if ceil_mode else size // 2


def unpooled_size(op: str, input: Tensor, output_size: Sequence[int] | None) -> Sequence[int]:
    """(H, W) of what a pooled map is unpooled to; twice its size where ``output_size`` is None."""
    if output_size is None:
        return 2 * input.shape[-2], 2 * input.shape[-1]
    if not isinstance(output_size, Sequence) or len(output_size) not in (2, 4):
        raise ValueError(f"{op}: output_size must be (H, W) or (N, K, H, W), got {output_size}")
    return output_size[-2:]


def autocast(tensor: Tensor) -> Tensor:
    """What autocast makes of an argument of a convolution; float64 and integers stay as they are."""
    device = tensor.device.type
    # Not torch.amp.is_autocast_available, which torch.compile cannot trace before torch 2.7.
    enabled = device in ("cpu", "cuda") and torch.is_autocast_enabled(device)
    if enabled and tensor.is_floating_point() and tensor.dtype != torch.float64:
        return tensor.to(torch.get_autocast_dtype(device))
    return tensor


def refuse_double_backward(backward_op: OpOverload, name: str) -> None:
    """Makes differentiating ``backward_op`` an error that names the operation, not its internals."""

    def refuse(ctx: Any, *grads: Tensor) -> NoReturn:
        raise RuntimeError(f"{name}: second derivatives are not implemented")

    torch.library.register_autograd(backward_op, refuse)
