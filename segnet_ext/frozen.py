"""Models for inference: BatchNorm folded into the convolutions, each result written once."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import ops
from ._extension import _C
from ._model_common import check_input, max_unpool2d
from .models.segnet import ENCODER, SegNet
from .models.segnet_basic import STAGES, SegNetBasic, normalise_input
from .models.variants import (
    BilinearInterpolation,
    FCNBasic,
    SegNetBasicEncoderAddition,
    SegNetBasicSingleChannelDecoder,
)
from .ops._common import is_plain

__all__ = ["Frozen", "freeze"]

_Basic = SegNetBasic | BilinearInterpolation | SegNetBasicEncoderAddition | SegNetBasicSingleChannelDecoder | FCNBasic


@torch.no_grad()
def freeze(model: nn.Module, dtype: torch.dtype | None = None) -> Frozen:
    """A copy of a model for inference, with the outputs of ``model.eval()``.

    Each BatchNorm is folded into the convolution before it (in float64), and each convolution writes its result once:
    with bias and ReLU, and pooled where a pool follows. Dropout is left out. The copy shares no memory with ``model``,
    which can be deleted; it has no parameters, only buffers, and its ``train()`` changes nothing.

    Args:
        model: :class:`segnet_ext.SegNet`, :class:`segnet_ext.SegNetBasic` or another model of ``segnet_ext.models``.
        dtype: floating dtype of weights and maps; None keeps that of the model. Images are cast to it.

    Returns:
        A module that maps images [N, in_channels, H, W] to logits [N, num_classes, H, W], of the sizes that ``model``
        takes. It works under ``torch.inference_mode``, from several threads, with ``copy.deepcopy``, ``pickle`` and
        ``torch.export``, and can be moved with ``.to``.

    Raises:
        TypeError: ``model`` is none of them, or ``dtype`` is no floating dtype.
        ValueError: a BatchNorm of ``model`` has no running statistics to fold.

    >>> import segnet_ext
    >>> frozen = segnet_ext.freeze(segnet_ext.SegNetBasic(num_classes=11))
    >>> frozen(torch.rand(1, 3, 45, 60)).shape
    torch.Size([1, 11, 45, 60])
    """
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"freeze: dtype must be a floating dtype or None, got {dtype}")
    for kind, form in _FORMS.items():
        if isinstance(model, kind):
            return form(model, dtype)
    raise TypeError(f"freeze: model must be one of {', '.join(k.__name__ for k in _FORMS)}, got {type(model).__name__}")


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


def _reusing_maps(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Lets the maps of a pass share memory: as much as two of the largest take, instead of fresh memory for each."""

    @functools.wraps(forward)
    def run(self: Any, x: Tensor) -> Tensor:
        if not is_plain(x):  # a tracer would meet the context manager
            return forward(self, x)
        with _C.MapReuse():
            return forward(self, x)

    return run


class Frozen(nn.Module):
    """A model for inference, as :func:`freeze` makes it. Images come in, are checked and cast."""

    name: str
    min_size: int

    def __init__(self, model: SegNet | _Basic) -> None:
        super().__init__()
        self.num_classes = model.num_classes
        self.in_channels = model.in_channels
        self.input_form = copy.deepcopy(getattr(model, "input_form", nn.Identity()))  # a variant has none
        self.layers = nn.ModuleDict()
        self.training = False

    def train(self, mode: bool = True) -> Frozen:
        """Changes nothing: there is no training mode."""
        return self

    def _prepare(self, x: Tensor) -> Tensor:
        check_input(self.name, x, self.in_channels, self.min_size)
        x = self.input_form(x)
        first = next(iter(self.layers))
        return x.to(self._layer(first)[0].dtype).contiguous(memory_format=torch.channels_last)

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


class FrozenSegNet(Frozen):
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

    @_reusing_maps
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


class FrozenBasic(Frozen):
    """What the frozen forms of SegNet-Basic and of the paper's variants of it share: the encoder."""

    min_size = 16

    def __init__(self, model: _Basic, dtype: torch.dtype | None = None) -> None:
        super().__init__(model)
        self.lrn = model.lrn
        self._add_stages("encoder", model, dtype)
        if isinstance(model.classifier, nn.Conv2d):
            self.layers["classifier"] = _Convolution(model.classifier, None, dtype)

    def _add_stages(self, side: str, model: _Basic, dtype: torch.dtype | None) -> None:
        """The convolution and BatchNorm of each stage of the encoder or decoder."""
        for s in STAGES:
            stage = getattr(getattr(model, side), f"stage{s}")
            self.layers[f"{side}{s}"] = _Convolution(stage.conv, stage.bn, dtype)

    def _prepare(self, x: Tensor) -> Tensor:
        x = super()._prepare(x)
        return normalise_input(x) if self.lrn else x

    def _encode(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, torch.Size]]]:
        """The fourth pooled map, and the codes and input size of every pool, first stage first."""
        pools = []
        for s in STAGES:
            size = x.shape[-2:]
            x, codes = self._pool(f"encoder{s}", x)
            pools.append((codes, size))
        return x, pools

    def _encode_and_keep(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The fourth pooled map, and the codes and the map before every pool, first stage first."""
        kept = []
        for s in STAGES:
            map = self._conv(f"encoder{s}", x)
            x, codes = ops.max_pool2d_with_codes(map, ceil_mode=True)
            kept.append((codes, map))
        return x, kept

    def _one_by_one(self, key: str, x: Tensor) -> Tensor:
        """A 1x1 convolution, where the model has one."""
        return F.conv2d(x, *self._layer(key)) if key in self.layers else x


class FrozenSegNetBasic(FrozenBasic):
    """:class:`segnet_ext.SegNetBasic` for inference, as :func:`freeze` makes it."""

    name = "FrozenSegNetBasic"

    def __init__(self, model: SegNetBasic | SegNetBasicEncoderAddition, dtype: torch.dtype | None = None) -> None:
        super().__init__(model, dtype)
        self._add_stages("decoder", model, dtype)

    @_reusing_maps
    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 16."""
        x, pools = self._encode(self._prepare(x))
        for s in reversed(STAGES):
            x = self._unpool(f"decoder{s}", x, *pools[s - 1], relu=False)
        return self._one_by_one("classifier", x)


class FrozenEncoderAddition(FrozenSegNetBasic):
    """:class:`segnet_ext.models.SegNetBasicEncoderAddition` for inference, as :func:`freeze` makes it."""

    name = "FrozenEncoderAddition"

    @_reusing_maps
    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 16."""
        x, kept = self._encode_and_keep(self._prepare(x))
        for s in reversed(STAGES):
            codes, map = kept[s - 1]
            x = self._unpool(f"decoder{s}", x, codes, map.shape[-2:], relu=False) + map
        return self._one_by_one("classifier", x)


class FrozenSingleChannelDecoder(FrozenBasic):
    """:class:`segnet_ext.models.SegNetBasicSingleChannelDecoder` for inference, as :func:`freeze` makes it."""

    name = "FrozenSingleChannelDecoder"

    def __init__(self, model: SegNetBasicSingleChannelDecoder, dtype: torch.dtype | None = None) -> None:
        super().__init__(model, dtype)
        self._add_stages("decoder", model, dtype)

    @_reusing_maps
    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 16."""
        x, pools = self._encode(self._prepare(x))
        for s in reversed(STAGES):
            codes, size = pools[s - 1]
            x = max_unpool2d(x, ops.codes_to_indices(codes, (*x.shape[:2], *size)), size)
            weight, bias = self._layer(f"decoder{s}")
            x = F.conv2d(x, weight, bias, padding=3, groups=len(weight))
        return self._one_by_one("classifier", x)


class FrozenBilinearInterpolation(FrozenBasic):
    """:class:`segnet_ext.models.BilinearInterpolation` for inference, as :func:`freeze` makes it."""

    name = "FrozenBilinearInterpolation"

    @_reusing_maps
    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 16."""
        x, pools = self._encode(self._prepare(x))
        x = self._one_by_one("classifier", x)
        for _, size in reversed(pools):
            # To twice the size, of which only `size` is computed; F.interpolate takes a factor or a size.
            x = torch.ops.aten.upsample_bilinear2d(x, size, False, 2.0, 2.0)
        return x


def _cut(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x[..., : size[0], : size[1]]``, copied: torch.export cannot prove for every size what it asks of a slice."""
    cut: Tensor = torch.ops.aten.upsample_nearest2d(x, size, 1.0, 1.0)  # whose pixels are those at the same place
    return cut


class FrozenFCNBasic(FrozenBasic):
    """:class:`segnet_ext.models.FCNBasic` for inference, as :func:`freeze` makes it."""

    name = "FrozenFCNBasic"

    def __init__(self, model: FCNBasic, dtype: torch.dtype | None = None) -> None:
        super().__init__(model, dtype)
        self.addition = model.addition
        if isinstance(model.reduction, nn.Conv2d):
            self.layers["reduction"] = _Convolution(model.reduction, None, dtype)
        for s in STAGES:
            stage = getattr(model.decoder, f"stage{s}")
            weight = stage.upsample.weight
            self.register_buffer(f"upsample{s}", weight.to(dtype or weight.dtype, copy=True))
            if isinstance(stage.lateral, nn.Conv2d):
                self.layers[f"lateral{s}"] = _Convolution(stage.lateral, None, dtype)

    @_reusing_maps
    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 16."""
        x = self._prepare(x)
        x, kept = self._encode_and_keep(x) if self.addition else self._encode(x)
        x = self._one_by_one("reduction", x)
        for s in reversed(STAGES):
            _, last = kept[s - 1]  # the map, or the size alone
            size = last.shape[-2:] if isinstance(last, Tensor) else last
            x = _cut(F.conv_transpose2d(x, getattr(self, f"upsample{s}"), stride=2, padding=3), size)
            if isinstance(last, Tensor):
                x = x + self._one_by_one(f"lateral{s}", last)
        return self._one_by_one("classifier", x)


_FORMS: dict[type[nn.Module], Callable[[Any, torch.dtype | None], Frozen]] = {
    SegNet: FrozenSegNet,
    SegNetBasic: FrozenSegNetBasic,
    BilinearInterpolation: FrozenBilinearInterpolation,
    SegNetBasicEncoderAddition: FrozenEncoderAddition,
    SegNetBasicSingleChannelDecoder: FrozenSingleChannelDecoder,
    FCNBasic: FrozenFCNBasic,
}
