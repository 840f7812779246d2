"""The fused operations as modules: drop-in pieces for any encoder-decoder that pools and unpools."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import ops

__all__ = ["BNReLUMaxPool2d", "MaxUnpoolConv2d", "bn_relu_conv2d"]


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
        running_mean, running_var, training, momentum = _batch_norm_arguments(self)
        return ops.bn_relu_max_pool2d(
            input, self.weight, self.bias, running_mean, running_var, training, momentum, self.eps, self.ceil_mode
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ceil_mode={self.ceil_mode}"


def _batch_norm_arguments(bn: nn.BatchNorm2d) -> tuple[Tensor | None, Tensor | None, bool, float]:
    """running_mean, running_var, training and momentum for a batch that ``bn`` is about to see, which it counts."""
    momentum = 0.0 if bn.momentum is None else bn.momentum
    if bn.training and bn.track_running_stats and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
        if bn.momentum is None:
            momentum = 1.0 / float(bn.num_batches_tracked)
    # As in nn.BatchNorm2d: buffers that are there but not tracked serve evaluation, and training leaves them alone.
    use_buffers = not bn.training or bn.track_running_stats
    return (
        bn.running_mean if use_buffers else None,
        bn.running_var if use_buffers else None,
        bn.training or (bn.running_mean is None and bn.running_var is None),
        momentum,
    )


def bn_relu_conv2d(
    bn: nn.Module,
    conv: nn.Conv2d,
    input: Tensor,
    codes: Tensor | None = None,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """``conv(relu(bn(input)))``, unpooled by ``codes`` in between if they are given, in one op.

    :func:`segnet_ext.ops.bn_relu_conv2d` with the parameters, buffers and settings of the two modules, whose own
    ``forward`` (and hooks) it does not call. What is not plainly an ``nn.BatchNorm2d``, such as an
    ``nn.SyncBatchNorm``, is called, and the convolution runs alone.

    Args:
        bn: of the C channels of ``input``.
        conv: odd square kernel, stride 1, size kept.
        input: [N, C, H, W], or with codes the pooled map [N, C, OH, OW].
        codes, output_size: as in :func:`segnet_ext.ops.max_unpool2d_conv2d`.

    Returns [N, K, H, W].

    >>> bn, conv = nn.BatchNorm2d(64), nn.Conv2d(64, 32, 3, padding=1)
    >>> bn_relu_conv2d(bn, conv, torch.randn(2, 64, 33, 48)).shape
    torch.Size([2, 32, 33, 48])
    """
    if type(bn) is not nn.BatchNorm2d:
        activated = F.relu(bn(input))
        if codes is None:
            return ops.conv2d(activated, conv.weight, conv.bias)
        return ops.max_unpool2d_conv2d(activated, codes, conv.weight, conv.bias, output_size)
    running_mean, running_var, training, momentum = _batch_norm_arguments(bn)
    return ops.bn_relu_conv2d(
        input,
        bn.weight,
        bn.bias,
        running_mean,
        running_var,
        conv.weight,
        conv.bias,
        training,
        momentum,
        bn.eps,
        codes,
        output_size,
    )


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
