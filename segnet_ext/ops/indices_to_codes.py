"""From torch's indices to two-bit codes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from segnet_ext._extension import _C
from segnet_ext.ops._common import empty_codes, operator


def indices_to_codes(indices: Tensor, input_size: Sequence[int]) -> Tensor:
    """The two-bit codes of a 2x2, stride-2 pool whose winners torch names by flat indices.

    Args:
        indices: int64 [N, C, OH, OW] as ``F.max_pool2d(input, 2, 2, return_indices=True)`` gives them, any layout.
        input_size: (H, W) or (N, C, H, W) of the map that was pooled.

    Returns:
        uint8 [N, OH, OW, ceil(C / 4)], as :func:`max_pool2d_with_codes` gives them.

    Raises:
        ValueError: ``input_size`` is not that of a map whose pool has this shape, or an index lies outside its own
            window.
        TypeError: ``indices`` is not int64.

    Example:
        >>> import torch
        >>> from segnet_ext.ops import indices_to_codes
        >>> indices_to_codes(torch.tensor([[[[3]]]]), (2, 2)).item()
        3
    """
    return _indices_to_codes(indices, input_size)


@operator("indices_to_codes")
def _indices_to_codes(indices: Tensor, input_size: Sequence[int]) -> Tensor:
    return _C.indices_to_codes(indices, input_size)


@_indices_to_codes.register_fake
def _(indices: Tensor, input_size: Sequence[int]) -> Tensor:
    return empty_codes(indices, *indices.shape[1:])
