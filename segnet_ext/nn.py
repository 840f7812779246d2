"""The fused operations as modules: drop-in pieces for any encoder-decoder that pools and unpools."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import ops
from .ops._batch_norm import batch_moments, move_running_stats

__all__ = [
    "BNReLUMaxPool2d",
    "MaxUnpoolConv2d",
    "SyncBNReLUMaxPool2d",
    "SyncBatchNorm2d",
    "bn_relu_conv2d",
    "convert_sync_batchnorm",
]

M = TypeVar("M", bound=nn.Module)


class BNReLUMaxPool2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` → ReLU → 2x2 / stride-2 max pooling in one op, :func:`segnet_ext.ops.bn_relu_max_pool2d`.

    Arguments, parameters, buffers and ``state_dict`` keys are those of ``nn.BatchNorm2d``, and so is the meaning of
    ``momentum=None`` (cumulative average) and ``track_running_stats=False`` (always the batch's statistics).

    ``nn.SyncBatchNorm.convert_sync_batchnorm`` does not know this class and would replace it by a plain BatchNorm;
    :func:`convert_sync_batchnorm` knows it.

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
        return ops.bn_relu_max_pool2d(input, *_batch_norm_arguments(self, input), self.eps, self.ceil_mode)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ceil_mode={self.ceil_mode}"


class SyncBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that in training has the statistics of the batches of all processes, on any device.

    As ``nn.SyncBatchNorm``, which is for CUDA alone, over the processes of the default group; :func:`bn_relu_conv2d`
    fuses it. The processes' batches may differ in size, and some be empty. Where ``torch.distributed`` is not
    initialised this is ``nn.BatchNorm2d``.
    """

    def forward(self, input: Tensor) -> Tensor:
        weight, bias, mean, var, training, momentum = _batch_norm_arguments(self, input)
        if input.numel() == 0 and weight is not None and bias is not None:
            # torch's backward divides by the number of values; and all processes must come to that of the statistics.
            return (input * weight[:, None, None] + bias[:, None, None]).to(input.dtype)
        return F.batch_norm(input, mean, var, weight, bias, training, momentum, self.eps)


class SyncBNReLUMaxPool2d(BNReLUMaxPool2d):
    """:class:`BNReLUMaxPool2d` with the statistics of :class:`SyncBatchNorm2d`."""


_SYNCHRONISED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: SyncBatchNorm2d,
    BNReLUMaxPool2d: SyncBNReLUMaxPool2d,
}


def convert_sync_batchnorm(module: M) -> M:
    """Replaces each ``nn.BatchNorm2d`` and :class:`BNReLUMaxPool2d` in ``module`` by its synchronised class.

    As ``nn.SyncBatchNorm.convert_sync_batchnorm``, for models that
    ``torch.nn.parallel.DistributedDataParallel`` is to train. The new modules have the old ones' parameters and
    buffers, so that an optimiser that has them stays valid, and ``state_dict`` keys stay.

    Returns:
        ``module``, changed in place; if it is itself one of the two, the new module.

    >>> pool = convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 8, 3), BNReLUMaxPool2d(8)))[1]
    >>> type(pool).__name__
    'SyncBNReLUMaxPool2d'
    """
    for name, child in module.named_children():
        module.add_module(name, convert_sync_batchnorm(child))
    replacement = _SYNCHRONISED.get(type(module))
    if replacement is None:
        return module
    converted: Any = replacement.__new__(replacement)
    converted.__dict__ = module.__dict__  # parameters, buffers, settings, hooks: the new class adds nothing to them
    return converted


def _is_synchronised(bn: nn.Module) -> bool:
    if not (isinstance(bn, (SyncBatchNorm2d, SyncBNReLUMaxPool2d)) and bn.training):
        return False
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _batch_norm_arguments(
    bn: nn.BatchNorm2d, input: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, bool, float]:
    """weight, bias, running_mean, running_var, training and momentum for a batch that ``bn`` sees, and counts."""
    momentum = 0.0 if bn.momentum is None else bn.momentum
    if bn.training and bn.track_running_stats and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
        if bn.momentum is None:
            momentum = 1.0 / float(bn.num_batches_tracked)
    # As in nn.BatchNorm2d: buffers that are there but not tracked serve evaluation, and training leaves them alone.
    use_buffers = not bn.training or bn.track_running_stats
    running_mean = bn.running_mean if use_buffers else None
    running_var = bn.running_var if use_buffers else None
    training = bn.training or (bn.running_mean is None and bn.running_var is None)
    if not _is_synchronised(bn):
        return bn.weight, bn.bias, running_mean, running_var, training, momentum

    mean, var, count = _GlobalMoments.apply(input)
    if running_mean is not None and running_var is not None:
        unbiased = var.detach() * (count / (count - 1).clamp(min=1))
        move_running_stats(mean.detach(), unbiased, running_mean, running_var, momentum)
    # For the operation the statistics are constants. What depends on them goes through weight and bias: here by a
    # factor of 1 and a shift of 0, whose gradients are those of the statistics.
    factor = ((var.detach() + bn.eps) / (var + bn.eps)).sqrt()
    weight = factor if bn.weight is None else bn.weight.to(factor.dtype) * factor
    shift = weight * (mean.detach() - mean) * (var.detach() + bn.eps).rsqrt()
    bias = shift if bn.bias is None else bn.bias.to(shift.dtype) + shift
    return weight, bias, mean.detach(), var.detach(), False, 0.0


class _GlobalMoments(torch.autograd.Function):
    """A map's mean and biased variance over the maps of all processes, each [C], and the number of values a channel."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = batch_moments(input)
        mine = torch.cat([mean, var, mean.new_full((1,), input.numel() // input.shape[1])])
        gathered = mine.new_empty(dist.get_world_size(), len(mine))
        dist.all_gather(list(gathered), mine)
        means, variances, counts = gathered.split([len(mean), len(var), 1], dim=1)
        total = counts.sum()
        shares = counts / total.clamp(min=1)
        mean = (shares * means).sum(0)
        var = (shares * (variances + (means - mean).square())).sum(0)
        ctx.save_for_backward(input, mean, total)
        ctx.mark_non_differentiable(total)
        return mean, var, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        input, mean, total = ctx.saved_tensors
        summed = torch.stack(grads[:2])
        dist.all_reduce(summed)
        grad_mean, grad_var = (summed / total.clamp(min=1))[..., None, None]
        grad = (input.to(mean.dtype) - mean[:, None, None]).mul_(2 * grad_var).add_(grad_mean)
        return grad.to(input.dtype)


def bn_relu_conv2d(
    bn: nn.Module,
    conv: nn.Conv2d,
    input: Tensor,
    codes: Tensor | None = None,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """``conv(relu(bn(input)))``, unpooled by ``codes`` in between if they are given, in one op.

    :func:`segnet_ext.ops.bn_relu_conv2d` with the parameters, buffers and settings of the two modules, whose own
    ``forward`` (and hooks) it does not call. What is neither plainly an ``nn.BatchNorm2d`` nor a
    :class:`SyncBatchNorm2d`, such as an ``nn.SyncBatchNorm``, is called, and the convolution runs alone.

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
    if type(bn) not in (nn.BatchNorm2d, SyncBatchNorm2d):
        activated = F.relu(bn(input))
        if codes is None:
            return ops.conv2d(activated, conv.weight, conv.bias)
        return ops.max_unpool2d_conv2d(activated, codes, conv.weight, conv.bias, output_size)
    assert isinstance(bn, nn.BatchNorm2d)
    bn_weight, bn_bias, running_mean, running_var, training, momentum = _batch_norm_arguments(bn, input)
    return ops.bn_relu_conv2d(
        input,
        bn_weight,
        bn_bias,
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
