"""The specification: every op of ``segnet_ext.ops`` and every model, in plain torch.

Nothing here uses the compiled kernels. The ops have the names, signatures and results of ``segnet_ext.ops``; the models
have the constructors, ``state_dict`` keys and results of those in ``segnet_ext.models``, and carry torch's int64 pool
indices where the fast models carry 2-bit codes.

Sources: Badrinarayanan, Kendall, Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation", TPAMI 2017 ("the paper"), and the prototxt files of the authors' SegNet-Tutorial (``segnet_train``,
``segnet_basic_train`` and their ``bayesian_`` variants).

Codes. A 2x2, stride-2 max pool picks one of four pixels in each window; its code is ``2 * row + col`` in that window.
Four channels share a byte: ``codes`` is uint8 [N, OH, OW, ceil(C / 4)], channel c is in bits ``2 * (c % 4)`` of byte
``c // 4``, and the bits of channels past C are 0.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._model_common import (
    bilinear_upsampling,
    check_arguments,
    check_input,
    check_width,
    dropout_layer,
    initialise,
    max_unpool2d,
)

__all__ = [
    "FCN",
    "BilinearInterpolation",
    "DeconvNet",
    "DeepLabLargeFOV",
    "FCNBasic",
    "SegNet",
    "SegNetBasic",
    "SegNetBasicEncoderAddition",
    "SegNetBasicSingleChannelDecoder",
    "bn_relu_conv2d",
    "bn_relu_max_pool2d",
    "codes_to_indices",
    "conv2d",
    "conv2d_relu_max_pool2d",
    "indices_to_codes",
    "max_pool2d_with_codes",
    "max_unpool2d_conv2d",
]

# ---------------------------------------------------------------------------------------------------------------- ops


def bn_relu_max_pool2d(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """BatchNorm, ReLU and 2x2 / stride-2 max pooling: the end of an encoder stage (paper, section 3).

    Args:
        input: [N, C, H, W], float64, float32, bfloat16 or float16.
        weight, bias: [C] or None (1 and 0), in the input's dtype, or float32 with a half-precision input.
        running_mean, running_var: [C]. With ``training`` they may be None; otherwise they are required and used. In
            training they move in place by ``momentum`` towards the batch's mean and unbiased variance.
        training: normalise by the batch's own mean and biased variance.
        ceil_mode: keep the last row and column of an odd-sized input, in a window of their own.

    Returns:
        output: [N, C, OH, OW] in the input's dtype; OH is H // 2, or ceil(H / 2) with ``ceil_mode``.
        codes: uint8 [N, OH, OW, ceil(C / 4)]. On a tie the first pixel in row-major order wins; NaN wins over numbers.

    Raises:
        ValueError: one value a channel in training, a wrong rank or channel count.
        RuntimeError: running statistics missing outside training, an empty output.
    """
    normalised = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return max_pool2d_with_codes(F.relu(normalised), ceil_mode)


def max_pool2d_with_codes(input: Tensor, ceil_mode: bool = False) -> tuple[Tensor, Tensor]:
    """2x2 / stride-2 max pooling that also says which pixel of each window won (paper, section 3).

    ``input``, ``ceil_mode`` and both results are as in :func:`bn_relu_max_pool2d`.
    """
    output, indices = F.max_pool2d(input, 2, 2, ceil_mode=ceil_mode, return_indices=True)
    return output, indices_to_codes(indices, input.shape)


def max_unpool2d_conv2d(
    input: Tensor,
    codes: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    output_size: Sequence[int] | None = None,
    relu: bool = False,
) -> Tensor:
    """Max unpooling followed by a stride-1 "same" convolution: the start of a decoder stage (paper, section 3).

    Args:
        input: [N, C, OH, OW], float64, float32, bfloat16 or float16.
        codes: uint8 [N, OH, OW, ceil(C / 4)], as a pooling above returned them.
        weight: [K, C, k, k] with odd k, in the input's dtype.
        bias: [K] or None.
        output_size: (H, W) or (N, C, H, W): the size of the map that was pooled, each of H, W in
            2 * O - 1 .. 2 * O + 1. The default is 2 * OH, 2 * OW.
        relu: apply ReLU to the result.

    Returns:
        [N, K, H, W] in the input's dtype.

    Raises:
        ValueError: an ``output_size`` out of range, ``codes`` of another shape, an even kernel.
        TypeError: ``codes`` not uint8.
    """
    n, c, oh, ow = input.shape
    h, w = (2 * oh, 2 * ow) if output_size is None else output_size[-2:]
    k = weight.shape[-1]
    if k % 2 == 0:
        raise ValueError(f"max_unpool2d_conv2d: weight must be [K, C, k, k] with odd k, got {list(weight.shape)}")
    indices = codes_to_indices(codes, (n, c, h, w))
    output = F.conv2d(max_unpool2d(input, indices, (h, w)), weight, bias, padding=k // 2)
    return F.relu(output) if relu else output


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """A stride-1 "same" convolution with an odd square kernel, then ReLU if asked for.

    ``input`` [N, C, H, W], ``weight`` [K, C, k, k], ``bias`` [K] or None; the result is [N, K, H, W].
    """
    output = F.conv2d(input, weight, bias, padding=weight.shape[-1] // 2)
    return F.relu(output) if relu else output


def bn_relu_conv2d(
    input: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    codes: Tensor | None = None,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """BatchNorm and ReLU as in :func:`bn_relu_max_pool2d`, then :func:`conv2d` or, with ``codes``,
    :func:`max_unpool2d_conv2d`: what lies between two convolutions (paper, section 3).
    """
    operand = F.relu(F.batch_norm(input, running_mean, running_var, bn_weight, bn_bias, training, momentum, eps))
    if codes is None:
        return conv2d(operand, weight, bias)
    return max_unpool2d_conv2d(operand, codes, weight, bias, output_size)


def conv2d_relu_max_pool2d(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """:func:`conv2d`, ReLU and :func:`max_pool2d_with_codes` in ceil mode: an encoder stage's end, BatchNorm folded."""
    return max_pool2d_with_codes(conv2d(input, weight, bias, relu=True), ceil_mode=True)


def codes_to_indices(codes: Tensor, input_size: Sequence[int]) -> Tensor:
    """Codes to the indices of ``F.max_pool2d(..., return_indices=True)``.

    Args:
        codes: uint8 [N, OH, OW, ceil(C / 4)].
        input_size: (N, C, H, W) of the map that was pooled; OH is H // 2 or ceil(H / 2), OW likewise. (C is not in the
            codes, so it must be given.)

    Returns:
        int64 [N, C, OH, OW], ``row * W + col`` in the map that was pooled. At a ragged edge, where a window reaches
        past the map, a code that points outside is clipped to the last row or column, so that no code can name a pixel
        that is not there.

    Raises:
        ValueError: an ``input_size`` that is not four numbers, or ``codes`` of another shape.
        TypeError: ``codes`` not uint8.
    """
    if len(input_size) != 4:
        raise ValueError(f"codes_to_indices: input_size must be (N, C, H, W), got {tuple(input_size)}")
    if codes.dtype != torch.uint8:
        raise TypeError(f"codes_to_indices: codes must be uint8, got {codes.dtype}")
    n, c, h, w = input_size
    fits = codes.dim() == 4 and codes.shape[0] == n and codes.shape[3] == (c + 3) // 4
    if not fits or codes.shape[1] not in (h // 2, (h + 1) // 2) or codes.shape[2] not in (w // 2, (w + 1) // 2):
        raise ValueError(
            f"codes_to_indices: codes must be [N, OH, OW, ceil(C / 4)] of a pooled map {tuple(input_size)}, "
            f"got {list(codes.shape)}"
        )
    _, oh, ow, _ = codes.shape
    shifts = torch.tensor([0, 2, 4, 6], device=codes.device)
    code = (codes.long()[..., None] >> shifts) & 3  # [N, OH, OW, ceil(C / 4), 4]
    code = code.flatten(3)[..., :c].permute(0, 3, 1, 2)  # [N, C, OH, OW]
    row = 2 * torch.arange(oh, device=codes.device)[:, None] + (code >> 1)
    col = 2 * torch.arange(ow, device=codes.device) + (code & 1)
    return (row.clamp(max=h - 1) * w + col.clamp(max=w - 1)).contiguous()


def indices_to_codes(indices: Tensor, input_size: Sequence[int]) -> Tensor:
    """The indices of ``F.max_pool2d(..., 2, 2, return_indices=True)`` to codes.

    Args:
        indices: int64 [N, C, OH, OW], ``row * W + col`` in the map that was pooled, each inside its own window.
        input_size: (H, W) or (N, C, H, W) of that map.

    Returns:
        uint8 [N, OH, OW, ceil(C / 4)].
    """
    n, c, oh, ow = indices.shape
    w = input_size[-1]
    row = indices // w - 2 * torch.arange(oh, device=indices.device)[:, None]
    col = indices % w - 2 * torch.arange(ow, device=indices.device)
    code = (2 * row + col).permute(0, 2, 3, 1)  # [N, OH, OW, C]
    code = F.pad(code, (0, -c % 4)).reshape(n, oh, ow, (c + 3) // 4, 4)
    shifts = torch.tensor([0, 2, 4, 6], device=indices.device)
    return (code << shifts).sum(-1).to(torch.uint8)


# ------------------------------------------------------------------------------------------------------------- SegNet

ENCODER = {1: (64, 64), 2: (128, 128), 3: (256, 256, 256), 4: (512, 512, 512), 5: (512, 512, 512)}
# Outputs of conv{s}_3_D, conv{s}_2_D, conv{s}_1_D, or of conv{s}_2_D, conv{s}_1_D. conv1_1_D is the classifier.
DECODER = {5: (512, 512, 512), 4: (512, 512, 256), 3: (256, 256, 128), 2: (128, 64), 1: (64,)}
DROPOUT_STAGES = (3, 4, 5)  # bayesian_segnet_train.prototxt: encdrop3-5 after the pools, decdrop5-3 after conv{s}_1_D


class _EncoderStage(nn.Module):
    """(conv, BatchNorm, ReLU) for each width, then a pool that remembers its winners."""

    def __init__(self, in_channels: int, widths: Sequence[int], dropout: float, dilation: int = 1) -> None:
        super().__init__()
        self.depth = len(widths)
        for i, width in enumerate(widths, start=1):
            self.add_module(f"conv{i}", nn.Conv2d(in_channels, width, 3, padding=dilation, dilation=dilation))
            self.add_module(f"bn{i}", nn.BatchNorm2d(width))
            in_channels = width
        self.dropout = dropout_layer(dropout)

    def convolve(self, x: Tensor) -> Tensor:
        """The map before the pool."""
        for i in range(1, self.depth + 1):
            x = F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, indices = F.max_pool2d(self.convolve(x), 2, 2, ceil_mode=True, return_indices=True)
        return self.dropout(x), indices


class _DecoderStage(nn.Module):
    """Unpool to the size and winners of the encoder stage, then (conv, BatchNorm, ReLU) for each width."""

    def __init__(self, in_channels: int, first: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.order = tuple(range(first, first - len(widths), -1))  # conv3, conv2, conv1
        for i, width in zip(self.order, widths, strict=True):
            self.add_module(f"conv{i}", nn.Conv2d(in_channels, width, 3, padding=1))
            self.add_module(f"bn{i}", nn.BatchNorm2d(width))
            in_channels = width
        self.dropout = dropout_layer(dropout)

    def forward(self, x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
        x = max_unpool2d(x, indices, size)
        for i in self.order:
            x = F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
        return self.dropout(x)


class SegNet(nn.Module):
    """SegNet (paper, section 3; ``segnet_train.prototxt``); see ``segnet_ext.SegNet`` for arguments and errors."""

    def __init__(self, num_classes: int, in_channels: int = 3, dropout: float = 0.0, extra_conv: bool = False) -> None:
        super().__init__()
        check_arguments("SegNet", num_classes, in_channels, dropout)
        self.in_channels = in_channels
        self.encoder = nn.Module()
        channels = in_channels
        for s, widths in ENCODER.items():
            self.encoder.add_module(
                f"stage{s}", _EncoderStage(channels, widths, dropout if s in DROPOUT_STAGES else 0.0)
            )
            channels = widths[-1]
        self.decoder = nn.Module()
        for s, widths in ({**DECODER, 1: DECODER[1] * 2} if extra_conv else DECODER).items():
            self.decoder.add_module(
                f"stage{s}",
                _DecoderStage(channels, len(ENCODER[s]), widths, dropout if s in DROPOUT_STAGES else 0.0),
            )
            channels = widths[-1]
        self.classifier = nn.Conv2d(channels, num_classes, 3, padding=1)  # conv1_1_D
        initialise(self, bn_bias=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to logits [N, num_classes, H, W]."""
        check_input("SegNet", x, self.in_channels, min_size=32)
        return self.classifier(_encode_decode(self.encoder, self.decoder, x, stages=5))


# -------------------------------------------------------------------------------------------------------- SegNet-Basic


class _BasicEncoderStage(nn.Module):
    """7x7 conv, BatchNorm, ReLU, pool."""

    def __init__(self, in_channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 7, padding=3)
        self.bn = nn.BatchNorm2d(width)
        self.dropout = dropout_layer(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.bn(self.conv(x)))
        x, indices = F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
        return self.dropout(x), indices


class _BasicDecoderStage(nn.Module):
    """Unpool, 7x7 conv, BatchNorm; no ReLU in this decoder."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 7, padding=3)
        self.bn = nn.BatchNorm2d(width)
        self.dropout = dropout_layer(dropout)

    def forward(self, x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
        return self.dropout(self.bn(self.conv(max_unpool2d(x, indices, size))))


class SegNetBasic(nn.Module):
    """SegNet-Basic (paper, section 3.1; ``segnet_basic_train.prototxt``); see ``segnet_ext.SegNetBasic``."""

    def __init__(
        self, num_classes: int, in_channels: int = 3, dropout: float = 0.0, lrn: bool = True, width: int = 64
    ) -> None:
        super().__init__()
        check_arguments("SegNetBasic", num_classes, in_channels, dropout)
        check_width("SegNetBasic", width)
        self.in_channels = in_channels
        self.lrn = lrn
        # bayesian_segnet_basic_train.prototxt: encdrop3, encdrop4, decdrop4, decdrop3.
        drop = {1: 0.0, 2: 0.0, 3: dropout, 4: dropout}
        self.encoder = nn.Module()
        for s in (1, 2, 3, 4):
            self.encoder.add_module(f"stage{s}", _BasicEncoderStage(in_channels if s == 1 else width, width, drop[s]))
        self.decoder = nn.Module()
        for s in (4, 3, 2, 1):
            self.decoder.add_module(f"stage{s}", _BasicDecoderStage(width, drop[s]))
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise(self, bn_bias=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to logits [N, num_classes, H, W]."""
        check_input("SegNetBasic", x, self.in_channels, min_size=16)
        if self.lrn:
            x = _normalise_input(x)
        return self.classifier(_encode_decode(self.encoder, self.decoder, x, stages=4))


# -------------------------------------------------------------------------- the decoder variants of the paper's Table 1


class _Variant(nn.Module):
    """SegNet-Basic's encoder, whose stages also give the map that they pool, and a forward up to the fourth pool."""

    def __init__(self, num_classes: int, in_channels: int, lrn: bool, width: int) -> None:
        super().__init__()
        check_arguments(type(self).__name__, num_classes, in_channels, dropout=0.0)
        check_width(type(self).__name__, width)
        self.in_channels = in_channels
        self.lrn = lrn
        self.encoder = nn.Module()
        for s in (1, 2, 3, 4):
            stage = nn.Module()
            stage.conv = nn.Conv2d(in_channels if s == 1 else width, width, 7, padding=3)
            stage.bn = nn.BatchNorm2d(width)
            self.encoder.add_module(f"stage{s}", stage)

    def encode(self, x: Tensor) -> tuple[Tensor, list[tuple[int, Tensor, Tensor]]]:
        """The fourth pooled map, and (stage, map before its pool, indices of the pool), fourth stage first."""
        check_input(type(self).__name__, x, self.in_channels, min_size=16)
        if self.lrn:
            x = _normalise_input(x)
        kept = []
        for s in (1, 2, 3, 4):
            stage = self.encoder.get_submodule(f"stage{s}")
            map = F.relu(stage.get_submodule("bn")(stage.get_submodule("conv")(x)))
            x, indices = F.max_pool2d(map, 2, 2, ceil_mode=True, return_indices=True)
            kept.append((s, map, indices))
        return x, kept[::-1]


class BilinearInterpolation(_Variant):
    """Logits of the fourth pooled map, interpolated to twice the size four times."""

    def __init__(self, num_classes: int, in_channels: int = 3, lrn: bool = True, width: int = 64) -> None:
        super().__init__(num_classes, in_channels, lrn, width)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise(self, bn_bias=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to logits [N, num_classes, H, W]."""
        x, kept = self.encode(x)
        x = self.classifier(x)
        for _, map, _ in kept:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = x[:, :, : map.shape[2], : map.shape[3]]
        return x


class _UnpoolingVariant(_Variant):
    """A decoder that unpools by indices, convolves 7x7 and normalises."""

    groups: bool
    addition: bool

    def __init__(self, num_classes: int, in_channels: int = 3, lrn: bool = True, width: int = 64) -> None:
        super().__init__(num_classes, in_channels, lrn, width)
        self.decoder = nn.Module()
        for s in (4, 3, 2, 1):
            stage = nn.Module()
            stage.conv = nn.Conv2d(width, width, 7, padding=3, groups=width if self.groups else 1)
            stage.bn = nn.BatchNorm2d(width)
            self.decoder.add_module(f"stage{s}", stage)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise(self, bn_bias=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to logits [N, num_classes, H, W]."""
        x, kept = self.encode(x)
        for s, map, indices in kept:
            stage = self.decoder.get_submodule(f"stage{s}")
            x = max_unpool2d(x, indices, map.shape[-2:])
            x = stage.get_submodule("bn")(stage.get_submodule("conv")(x))
            if self.addition:
                x = x + map
        return self.classifier(x)


class SegNetBasicEncoderAddition(_UnpoolingVariant):
    """SegNet-Basic with the encoder's maps added to the decoder's."""

    groups, addition = False, True


class SegNetBasicSingleChannelDecoder(_UnpoolingVariant):
    """SegNet-Basic with decoder filters of one channel each."""

    groups, addition = True, False


class FCNBasic(_Variant):
    """FCN's decoder: learnt upsampling of reduced maps; see ``segnet_ext.models.FCNBasic``."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        lrn: bool = True,
        width: int = 64,
        addition: bool = True,
        dim_reduction: bool = True,
    ) -> None:
        super().__init__(num_classes, in_channels, lrn, width)
        self.addition = addition
        channels = num_classes if dim_reduction else width
        self.reduction = nn.Conv2d(width, channels, 1) if dim_reduction else nn.Identity()
        self.decoder = nn.Module()
        for s in (4, 3, 2, 1):
            stage = nn.Module()
            stage.upsample = nn.ConvTranspose2d(channels, channels, 8, stride=2, padding=3, bias=False)
            stage.lateral = nn.Conv2d(width, channels, 1) if addition and dim_reduction else nn.Identity()
            self.decoder.add_module(f"stage{s}", stage)
        self.classifier = nn.Identity() if dim_reduction else nn.Conv2d(width, num_classes, 1)
        initialise(self, bn_bias=0.001)
        bilinear_upsampling(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to logits [N, num_classes, H, W]."""
        x, kept = self.encode(x)
        x = self.reduction(x)
        for s, map, _ in kept:
            stage = self.decoder.get_submodule(f"stage{s}")
            x = stage.get_submodule("upsample")(x)[:, :, : map.shape[2], : map.shape[3]]
            if self.addition:
                x = x + stage.get_submodule("lateral")(map)
        return self.classifier(x)


# ----------------------------------------------------------------------- the networks of the paper's Tables 3 and 6


class _FullyConnected(nn.Module):
    """fc6 and fc7 of VGG16 as convolutions, each followed by BatchNorm, ReLU and dropout."""

    def __init__(self, width: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.fc6 = nn.Conv2d(ENCODER[5][-1], width, kernel_size, padding=padding, dilation=dilation)
        self.bn6 = nn.BatchNorm2d(width)
        self.fc7 = nn.Conv2d(width, width, 1)
        self.bn7 = nn.BatchNorm2d(width)
        self.dropout = dropout_layer(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.bn6(self.fc6(x))))
        return self.dropout(F.relu(self.bn7(self.fc7(x))))


class _VGG16Model(nn.Module):
    """VGG16's thirteen convolutions as ``encoder``, and argument checks."""

    def __init__(
        self, num_classes: int, in_channels: int, dropout: float, fc_channels: int, dilations: Sequence[int]
    ) -> None:
        super().__init__()
        check_arguments(type(self).__name__, num_classes, in_channels, dropout)
        check_width(type(self).__name__, fc_channels, "fc_channels")
        self.in_channels = in_channels
        self.encoder = nn.Module()
        channels = in_channels
        for (s, widths), dilation in zip(ENCODER.items(), dilations, strict=True):
            self.encoder.add_module(f"stage{s}", _EncoderStage(channels, widths, 0.0, dilation))
            channels = widths[-1]


class FCN(_VGG16Model):
    """FCN-8s; see ``segnet_ext.models.FCN``. Nothing needs the winners of its pools."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        dropout: float = 0.5,
        learnt_deconv: bool = False,
        fc_channels: int = 4096,
    ) -> None:
        super().__init__(num_classes, in_channels, dropout, fc_channels, dilations=(1, 1, 1, 1, 1))
        self.fc = _FullyConnected(fc_channels, 7, 1, dropout)
        self.score = nn.Conv2d(fc_channels, num_classes, 1)
        self.score_pool4 = nn.Conv2d(ENCODER[4][-1], num_classes, 1)
        self.score_pool3 = nn.Conv2d(ENCODER[3][-1], num_classes, 1)
        for s, factor in ((5, 2), (4, 2), (3, 8)):
            upsample: nn.Module = nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)
            if learnt_deconv:
                kernel = 2 * factor
                upsample = nn.ConvTranspose2d(num_classes, num_classes, kernel, factor, factor // 2, bias=False)
            self.add_module(f"upsample{s}", upsample)
        initialise(self, bn_bias=0.0)
        bilinear_upsampling(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to logits [N, num_classes, H, W]."""
        check_input("FCN", x, self.in_channels, min_size=32)
        maps = {0: x}
        for s in ENCODER:
            x = F.max_pool2d(getattr(self.encoder, f"stage{s}").convolve(x), 2, 2, ceil_mode=True)
            if s in (3, 4):
                maps[s] = x
        x = self.score(self.fc(x))
        for s, finer in ((5, 4), (4, 3), (3, 0)):
            x = self.get_submodule(f"upsample{s}")(x)[:, :, : maps[finer].shape[2], : maps[finer].shape[3]]
            if finer > 0:
                x = x + self.get_submodule(f"score_pool{finer}")(maps[finer])
        return x


class DeepLabLargeFOV(_VGG16Model):
    """DeepLab-LargeFOV; see ``segnet_ext.models.DeepLabLargeFOV``."""

    def __init__(self, num_classes: int, in_channels: int = 3, dropout: float = 0.5, fc_channels: int = 1024) -> None:
        super().__init__(num_classes, in_channels, dropout, fc_channels, dilations=(1, 1, 1, 1, 2))
        self.fc = _FullyConnected(fc_channels, 3, 12, dropout)
        self.score = nn.Conv2d(fc_channels, num_classes, 1)
        initialise(self, bn_bias=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to logits [N, num_classes, H, W]."""
        check_input("DeepLabLargeFOV", x, self.in_channels, min_size=32)
        height, width = x.shape[-2:]
        for s in ENCODER:
            x = getattr(self.encoder, f"stage{s}").convolve(x)
            x = F.max_pool2d(x, 2, 2, ceil_mode=True) if s < 4 else F.max_pool2d(x, 3, 1, padding=1)
        x = self.score(self.fc(F.avg_pool2d(x, 3, 1, padding=1)))
        return F.interpolate(x, scale_factor=8, mode="bilinear", align_corners=False)[:, :, :height, :width]


class DeconvNet(_VGG16Model):
    """DeconvNet; see ``segnet_ext.models.DeconvNet``, also for why its deconvolutions stand here as convolutions."""

    def __init__(self, num_classes: int, in_channels: int = 3, fc_channels: int = 1024) -> None:
        super().__init__(num_classes, in_channels, 0.0, fc_channels, dilations=(1, 1, 1, 1, 1))
        self.fc = _FullyConnected(fc_channels, 7, 1, dropout=0.0)
        channels = ENCODER[5][-1]
        self.fc6_deconv = nn.Conv2d(fc_channels, channels, 7, padding=3)
        self.bn6_deconv = nn.BatchNorm2d(channels)
        self.decoder = nn.Module()
        for s, widths in {**DECODER, 1: DECODER[1] * 2}.items():
            self.decoder.add_module(f"stage{s}", _DecoderStage(channels, len(ENCODER[s]), widths, dropout=0.0))
            channels = widths[-1]
        self.score = nn.Conv2d(channels, num_classes, 1)
        initialise(self, bn_bias=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to logits [N, num_classes, H, W]."""
        check_input("DeconvNet", x, self.in_channels, min_size=32)
        return self.score(_encode_decode(self.encoder, self.decoder, x, stages=5, between=self._between))

    def _between(self, x: Tensor) -> Tensor:
        return F.relu(self.bn6_deconv(self.fc6_deconv(self.fc(x))))


# ----------------------------------------------------------------------------------------------- used by several models


def _normalise_input(x: Tensor) -> Tensor:
    """The local response normalisation of the authors' first layer."""
    # In float32 for half-precision input: torch has no half kernel for it on the CPU, and squares overflow.
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return F.local_response_norm(wide, size=5, alpha=1e-4, beta=0.75).to(x.dtype)


def _encode_decode(
    encoder: nn.Module,
    decoder: nn.Module,
    x: Tensor,
    stages: int,
    between: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Down through encoder stages 1, 2, ... and up again, each decoder stage fed by its encoder stage's pool."""
    pools = []
    for s in range(1, stages + 1):
        size = x.shape[-2:]
        x, indices = encoder.get_submodule(f"stage{s}")(x)
        pools.append((indices, size))
    x = between(x)
    for s in range(stages, 0, -1):
        x = decoder.get_submodule(f"stage{s}")(x, *pools.pop())
    return x
