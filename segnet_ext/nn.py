"""The fused operations as modules: drop-in pieces for any encoder-decoder that pools and unpools."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import ops

__all__ = ["BNReLUMaxPool2d", "MaxUnpoolConv2d"]


class BNReLUMaxPool2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` → ReLU → 2x2 / stride-2 max pooling in one op, :func:`segnet_ext.ops.bn_relu_max_pool2d`.

    Arguments, parameters, buffers and ``state_dict`` keys are those of ``nn.BatchNorm2d``, and so is the meaning of
    ``momentum=None`` (cumulative average) and ``track_running_stats=False`` (always the batch's statistics).

    ``nn.SyncBatchNorm.convert_sync_batchnorm`` does not know this class and would replace it by a plain BatchNorm.

    Args:
        num_features: C of an input [N, C, H, W].
        ceil_mode: keep the last row and column of an odd-sized input, in a window of their own.

    Returns (from ``forward``): ``(output, codes)``, [N, C, OH, OW] and uint8 [N, OH, OW, ceil(C / 4)].

    >>> pool = BNReLUMaxPool2d(64)
    >>> output, codes = pool(torch.randn(2, 64, 32, 48))
    >>> output.shape, codes.shape
    (torch.Size([2, 64, 16, 24]), torch.Size([2, 16, 24, 16]))
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        ceil_mode: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if num_features < 1:
            raise ValueError(f"BNReLUMaxPool2d: num_features must be at least 1, got {num_features}")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # the codes come with it
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        # As in nn.BatchNorm2d: buffers that are there but not tracked serve evaluation, and training leaves them alone.
        use_buffers = not self.training or self.track_running_stats
        return ops.bn_relu_max_pool2d(
            input,
            self.weight,
            self.bias,
            self.running_mean if use_buffers else None,
            self.running_var if use_buffers else None,
            self.training or (self.running_mean is None and self.running_var is None),
            momentum,
            self.eps,
            self.ceil_mode,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ceil_mode={self.ceil_mode}"


class MaxUnpoolConv2d(nn.Conv2d):
    """Max unpooling → stride-1 "same" convolution in one op, :func:`segnet_ext.ops.max_unpool2d_conv2d`.

    Parameters, initialisation and ``state_dict`` keys are those of
    ``nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)``.

    Args:
        in_channels: C of the pooled input [N, C, OH, OW].
        out_channels: K of the output [N, K, H, W].
        kernel_size: odd.

    >>> pool, unpool = BNReLUMaxPool2d(64), MaxUnpoolConv2d(64, 32)
    >>> x = torch.randn(2, 64, 33, 48)
    >>> output, codes = pool(x)
    >>> unpool(output, codes, output_size=x.shape[-2:]).shape
    torch.Size([2, 32, 33, 48])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if value < 1:
                raise ValueError(f"MaxUnpoolConv2d: {name} must be at least 1, got {value}")
        if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"MaxUnpoolConv2d: kernel_size must be an odd positive int, got {kernel_size!r}")
        super().__init__(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias, device=device, dtype=dtype
        )

    def forward(  # type: ignore[override]  # unpooling needs the codes
        self, input: Tensor, codes: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        """``input`` [N, C, OH, OW] with its ``codes`` to [N, K, H, W]; ``output_size`` is 2 * OH, 2 * OW by default."""
        return ops.max_unpool2d_conv2d(input, codes, self.weight, self.bias, output_size)

    def extra_repr(self) -> str:
        bias = "" if self.bias is not None else ", bias=False"
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size[0]}{bias}"
