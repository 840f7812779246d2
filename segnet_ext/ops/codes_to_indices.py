"""From two-bit codes to torch's indices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segnet_ext._extension import _C
from segnet_ext.ops._common import operator


def codes_to_indices(codes: Tensor, input_size: Sequence[int]) -> Tensor:
    """The flat indices that ``F.max_pool2d(..., return_indices=True)`` gives and ``F.max_unpool2d`` takes.

    Args:
        codes: uint8 [N, OH, OW, ceil(C / 4)], contiguous, as :func:`max_pool2d_with_codes` gives them. A code that
            points past a ragged edge of the map is moved to the last row or column.
        input_size: (N, C, H, W) of the map that was pooled.

    Returns:
        int64 [N, C, OH, OW], channels_last: ``row * W + col`` of each winner in its channel's plane.

    Raises:
        ValueError: ``input_size`` is not that of a map whose pool has codes of this shape, or ``codes`` is not
            contiguous.
        TypeError: ``codes`` is not uint8.

    Example:
        >>> import torch
        >>> from segnet_ext.ops import codes_to_indices
        >>> codes_to_indices(torch.tensor([[[[3]]]], dtype=torch.uint8), (1, 1, 2, 2)).item()
        3
    """
    return _codes_to_indices(codes, input_size)


@operator("codes_to_indices")
def _codes_to_indices(codes: Tensor, input_size: Sequence[int]) -> Tensor:
    return _C.codes_to_indices(codes, input_size)


@_codes_to_indices.register_fake
def _(codes: Tensor, input_size: Sequence[int]) -> Tensor:
    return torch.empty(
        (input_size[0], input_size[1], codes.shape[1], codes.shape[2]),
        dtype=torch.int64,
        device=codes.device,
        memory_format=torch.channels_last,
    )
