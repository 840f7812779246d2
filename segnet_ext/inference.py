"""Inference: models with BatchNorm folded away, Monte Carlo dropout, and test-time augmentation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import ops
from ._model_common import check_input
from .models.segnet import ENCODER, SegNet
from .models.segnet_basic import STAGES, SegNetBasic, normalise_input

__all__ = ["FrozenSegNet", "FrozenSegNetBasic", "average_over_views", "freeze", "monte_carlo_dropout"]

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@torch.no_grad()
def freeze(model: nn.Module, dtype: torch.dtype | None = None) -> FrozenSegNet | FrozenSegNetBasic:
    """A copy of a model for inference, with the outputs of ``model.eval()``.

    Each BatchNorm is folded into the convolution before it (in float64), and each convolution writes its result once:
    with bias and ReLU, and pooled where a pool follows. Dropout is left out. The copy shares no memory with ``model``,
    which can be deleted; it has no parameters, only buffers, and its ``train()`` changes nothing.

    Args:
        model: :class:`segnet_ext.SegNet` or :class:`segnet_ext.SegNetBasic`.
        dtype: floating dtype of weights and maps; None keeps that of the model. Images are cast to it.

    Returns:
        A module that maps images [N, in_channels, H, W] to logits [N, num_classes, H, W], of the sizes that ``model``
        takes. It works under ``torch.inference_mode``, from several threads, with ``copy.deepcopy``, ``pickle`` and
        ``torch.export``, and can be moved with ``.to``.

    Raises:
        TypeError: ``model`` is neither of the two, or ``dtype`` is no floating dtype.
        ValueError: a BatchNorm of ``model`` has no running statistics to fold.

    >>> import segnet_ext
    >>> frozen = segnet_ext.freeze(segnet_ext.SegNetBasic(num_classes=11))
    >>> frozen(torch.rand(1, 3, 45, 60)).shape
    torch.Size([1, 11, 45, 60])
    """
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"freeze: dtype must be a floating dtype or None, got {dtype}")
    if isinstance(model, SegNet):
        return FrozenSegNet(model, dtype)
    if isinstance(model, SegNetBasic):
        return FrozenSegNetBasic(model, dtype)
    raise TypeError(f"freeze: model must be a segnet_ext.SegNet or SegNetBasic, got {type(model).__name__}")


class _Convolution(nn.Module):
    """The weight and bias of a convolution, with the BatchNorm behind it folded in, as buffers."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d | None, dtype: torch.dtype | None) -> None:
        super().__init__()
        dtype = dtype or conv.weight.dtype
        weight = conv.weight.double()
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.double()
        if bn is not None:
            mean, var = bn.running_mean, bn.running_var
            if mean is None or var is None:
                raise ValueError("freeze: model must have running statistics in every BatchNorm, got one without")
            scale = (var.double() + bn.eps).rsqrt()
            if bn.affine:
                scale = scale * bn.weight.double()
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = (bias - mean.double()) * scale
            if bn.affine:
                bias = bias + bn.bias.double()
        # Copies also where nothing changed, so that the model can go on training.
        self.register_buffer("weight", weight.to(dtype, copy=True).contiguous())
        self.register_buffer("bias", bias.to(dtype, copy=True))


class _Frozen(nn.Module):
    """Images in, checked and cast; what both frozen models share."""

    name: str
    min_size: int

    def __init__(self, model: SegNet | SegNetBasic) -> None:
        super().__init__()
        self.num_classes = model.num_classes
        self.in_channels = model.in_channels
        self.input_form = copy.deepcopy(model.input_form)
        self.layers = nn.ModuleDict()
        self.training = False

    def train(self, mode: bool = True) -> _Frozen:
        """Changes nothing: there is no training mode."""
        return self

    def _prepare(self, x: Tensor) -> Tensor:
        check_input(self.name, x, self.in_channels, self.min_size)
        x = self.input_form(x)
        return x.to(self._layer("classifier")[0].dtype).contiguous(memory_format=torch.channels_last)

    def _layer(self, key: str) -> tuple[Tensor, Tensor]:
        layer = self.layers[key]
        assert isinstance(layer, _Convolution)
        return layer.weight, layer.bias

    def _conv(self, key: str, x: Tensor, relu: bool = True) -> Tensor:
        return ops.conv2d(x, *self._layer(key), relu)

    def _pool(self, key: str, x: Tensor) -> tuple[Tensor, Tensor]:
        return ops.conv2d_relu_max_pool2d(x, *self._layer(key))

    def _unpool(self, key: str, x: Tensor, codes: Tensor, size: Sequence[int], relu: bool = True) -> Tensor:
        return ops.max_unpool2d_conv2d(x, codes, *self._layer(key), size, relu)


class FrozenSegNet(_Frozen):
    """:class:`segnet_ext.SegNet` for inference, as :func:`freeze` makes it."""

    name, min_size = "FrozenSegNet", 32

    def __init__(self, model: SegNet, dtype: torch.dtype | None = None) -> None:
        super().__init__(model)
        self.decoder_widths = model.decoder.widths
        for side, stages in (("encoder", ENCODER), ("decoder", self.decoder_widths)):
            for s, widths in stages.items():
                stage = getattr(model, side).get_submodule(f"stage{s}")
                first = 1 if side == "encoder" else len(ENCODER[s]) - len(widths) + 1
                for i in range(first, first + len(widths)):
                    conv, bn = stage.get_submodule(f"conv{i}"), stage.get_submodule(f"bn{i}")
                    self.layers[f"{side}{s}_{i}"] = _Convolution(conv, bn, dtype)
        self.layers["classifier"] = _Convolution(model.classifier, None, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 32."""
        x = self._prepare(x)
        pools = []
        for s, widths in ENCODER.items():
            for i in range(1, len(widths)):
                x = self._conv(f"encoder{s}_{i}", x)
            size = x.shape[-2:]
            x, codes = self._pool(f"encoder{s}_{len(widths)}", x)
            pools.append((codes, size))
        for s, widths in self.decoder_widths.items():
            first = len(ENCODER[s])
            x = self._unpool(f"decoder{s}_{first}", x, *pools[s - 1])
            for i in range(first - 1, first - len(widths), -1):
                x = self._conv(f"decoder{s}_{i}", x)
        return self._conv("classifier", x, relu=False)


class FrozenSegNetBasic(_Frozen):
    """:class:`segnet_ext.SegNetBasic` for inference, as :func:`freeze` makes it."""

    name, min_size = "FrozenSegNetBasic", 16

    def __init__(self, model: SegNetBasic, dtype: torch.dtype | None = None) -> None:
        super().__init__(model)
        self.lrn = model.lrn
        for side in ("encoder", "decoder"):
            for s in STAGES:
                stage = getattr(model, side).get_submodule(f"stage{s}")
                self.layers[f"{side}{s}"] = _Convolution(stage.conv, stage.bn, dtype)
        self.layers["classifier"] = _Convolution(model.classifier, None, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 16."""
        x = self._prepare(x)
        if self.lrn:
            x = normalise_input(x)
        pools = []
        for s in STAGES:
            size = x.shape[-2:]
            x, codes = self._pool(f"encoder{s}", x)
            pools.append((codes, size))
        for s in reversed(STAGES):
            x = self._unpool(f"decoder{s}", x, *pools[s - 1], relu=False)
        return F.conv2d(x, *self._layer("classifier"))


@torch.no_grad()
def monte_carlo_dropout(
    model: nn.Module, images: Tensor, samples: int = 40, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """Class probabilities and their uncertainty, from forward passes that each draw new dropout masks.

    Bayesian SegNet (Kendall, Badrinarayanan and Cipolla, BMVC 2017): the mean of the samples' softmax is the
    prediction, their variance the model's uncertainty. ``variance.mean(1)`` is the paper's uncertainty map, averaged
    over the classes. Dropout is active, all else as in ``model.eval()``: BatchNorm uses its running statistics. Samples
    are drawn one after the other, so memory does not grow with their number. No gradient is recorded.

    Args:
        model: maps ``images`` to logits [N, K, H, W] and has dropout, such as ``SegNet(11, dropout=0.5)``. Each module
            is put back in its mode afterwards; other threads must leave the model alone meanwhile.
        images: floating [N, C, H, W].
        samples: forward passes, at least 1. The paper sees no further gain above about 40.
        seed: where given, the masks depend on it alone, and torch's random state is left as it was; None draws from
            torch's generator.

    Returns:
        Mean and variance of the softmax, both [N, K, H, W] in the logits' dtype, at least float32. The variance is the
        squared deviation from the mean over all samples, divided by ``samples``: 0 for one sample.

    Raises:
        ValueError: ``samples`` is below 1, or ``model`` has no dropout with a probability above 0.

    >>> import segnet_ext
    >>> model = segnet_ext.SegNetBasic(num_classes=11, dropout=0.5)
    >>> mean, variance = monte_carlo_dropout(model, torch.rand(1, 3, 45, 60), samples=4, seed=0)
    >>> mean.argmax(1).shape, variance.mean(1).shape
    (torch.Size([1, 45, 60]), torch.Size([1, 45, 60]))
    """
    if samples < 1:
        raise ValueError(f"monte_carlo_dropout: samples must be at least 1, got {samples}")
    if not has_dropout(model):
        raise ValueError(
            "monte_carlo_dropout: model must have dropout with a probability above 0, "
            f"got {type(model).__name__} without"
        )
    with _only_dropout_training(model), _seeded(seed, images.device):
        mean = _probabilities(model(images))
        deviation = torch.zeros_like(mean)
        for count in range(2, samples + 1):  # Welford's update, which does not cancel as a sum of squares would
            sample = _probabilities(model(images))
            delta = sample - mean
            mean += delta / count
            deviation += delta * (sample - mean)
    return mean, deviation / samples


def has_dropout(model: nn.Module) -> bool:
    """Whether a dropout layer of ``model`` has a probability above 0."""
    return any(isinstance(module, _DROPOUT) and module.p > 0 for module in model.modules())


def _probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))


@contextmanager
def _only_dropout_training(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = isinstance(module, _DROPOUT)
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def average_over_views(
    predict: Callable[[Tensor], Tensor], images: Tensor, scales: Sequence[float] = (1.0,), mirror: bool = True
) -> Tensor:
    """Test-time augmentation: the average of what ``predict`` says of an image, its mirror image, and other sizes.

    Args:
        predict: maps images [N, C, h, w] of any size to maps [N, K, h, w] that may be averaged, such as softmax.
        images: floating [N, C, H, W].
        scales: factors of height and width, above 0, of the sizes to look at. Images are resized bilinearly, averaging
            where they shrink.
        mirror: whether to look at each size twice, the second time with left and right exchanged.

    Returns:
        [N, K, H, W], the mean of all views' maps, each turned back and resized bilinearly to H x W.

    Raises:
        ValueError: ``scales`` is empty or has a value that is not a finite number above 0.

    >>> average_over_views(lambda x: x.softmax(1), torch.rand(1, 3, 32, 48), scales=(0.5, 1)).shape
    torch.Size([1, 3, 32, 48])
    """
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise ValueError(f"average_over_views: scales must be numbers above 0, at least one, got {scales}")
    total: Tensor | None = None
    for scale in scales:
        view = _resize(images, view_size(images.shape[-2:], scale))
        for mirrored in (False, True) if mirror else (False,):
            maps = predict(view.flip(-1)).flip(-1) if mirrored else predict(view)
            maps = _resize(maps, images.shape[-2:])
            total = maps if total is None else total + maps
    assert total is not None
    return total / (len(scales) * (2 if mirror else 1))


def view_size(size: Sequence[int], scale: float) -> tuple[int, int]:
    """(height, width) of the view of an image of ``size`` at ``scale``."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False, antialias=True)
