"""The decoder variants that the SegNet paper compares in its Table 1, all on SegNet-Basic's encoder."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from .._model_common import bilinear_upsampling, check_arguments, check_input, check_width, initialise, max_unpool2d
from .segnet_basic import STAGES, BasicDecoderStage, BasicEncoder, normalise_input
from .stage import Stage, StagedModel, run_stage


class MapEncoderStage(Stage):
    """7x7 conv, BatchNorm, ReLU; then a pool beside the map that was pooled, which the decoder adds."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 7, padding=3)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, C, H, W] to the pooled map [N, K, ceil(H / 2), ceil(W / 2)], its codes and the map [N, K, H, W]."""
        x = F.relu(self.bn(self.conv(x)))
        return *ops.max_pool2d_with_codes(x, ceil_mode=True), x


class MapEncoder(nn.Module):
    """Stages 1 to 4, their maps kept."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        for s in STAGES:
            self.add_module(f"stage{s}", MapEncoderStage(in_channels, width))
            in_channels = width

    def forward(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The fourth pooled map, and of every stage the codes and the map, first stage first."""
        kept = []
        for s in STAGES:
            x, codes, map = run_stage(getattr(self, f"stage{s}"), x)
            kept.append((codes, map))
        return x, kept


class SingleChannelDecoderStage(Stage):
    """Unpooling, then a 7x7 filter for each map alone, then BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor, codes: Tensor, size: Sequence[int]) -> Tensor:
        """A pooled map, the codes and the size (H, W) from before that pool, to [N, K, H, W]."""
        indices = ops.codes_to_indices(codes, (*x.shape[:2], *size))
        return self.bn(self.conv(max_unpool2d(x, indices, size)))


class FCNDecoderStage(Stage):
    """Twice the size by a learnt 8x8 kernel, and the encoder's map added, reduced to as many channels."""

    def __init__(self, channels: int, width: int, addition: bool, reduction: bool) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(channels, channels, 8, stride=2, padding=3, bias=False)
        self.lateral = nn.Conv2d(width, channels, 1) if addition and reduction else nn.Identity()

    def forward(self, x: Tensor, size: Sequence[int], map: Tensor | None) -> Tensor:
        """[N, K, OH, OW] to [N, K, H, W]; ``map`` [N, width, H, W] is what the encoder pooled."""
        x = self.upsample(x)[..., : size[0], : size[1]]
        return x if map is None else x + self.lateral(map)


class _Variant(StagedModel):
    """Arguments, input checks and initialisation, which the variants share."""

    def __init__(self, num_classes: int, in_channels: int, lrn: bool, width: int) -> None:
        super().__init__()
        check_arguments(type(self).__name__, num_classes, in_channels, dropout=0.0)
        check_width(type(self).__name__, width)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.lrn = lrn

    def _prepare(self, x: Tensor) -> Tensor:
        check_input(type(self).__name__, x, self.in_channels, min_size=16)
        if self.lrn:
            x = normalise_input(x)
        return x.contiguous(memory_format=torch.channels_last)


class BilinearInterpolation(_Variant):
    """Table 1's Bilinear-Interpolation: nothing is learnt behind the encoder but the classifier.

    A 1x1 convolution gives the logits of the fourth pooled map, which are interpolated to twice the size four times.
    Arguments and errors are those of :class:`segnet_ext.SegNetBasic`, without ``dropout``.

    >>> BilinearInterpolation(num_classes=11).eval()(torch.randn(1, 3, 45, 60)).shape
    torch.Size([1, 11, 45, 60])
    """

    def __init__(self, num_classes: int, in_channels: int = 3, lrn: bool = True, width: int = 64) -> None:
        super().__init__(num_classes, in_channels, lrn, width)
        self.encoder = BasicEncoder(in_channels, width, dropout=0.0)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise(self, bn_bias=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 16, odd ones too."""
        x, pools = self.encoder(self._prepare(x))
        x = self.classifier(x)
        for _, size in reversed(pools):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)[..., : size[0], : size[1]]
        return x


class SegNetBasicEncoderAddition(_Variant):
    """Table 1's SegNet-Basic-EncoderAddition: each decoder stage's result has the encoder's map of that size added.

    The map added is what the stage's pool sees, behind BatchNorm and ReLU; storing it takes 64 channels of numbers
    where SegNet-Basic stores codes. Arguments and errors are those of :class:`segnet_ext.SegNetBasic`, without
    ``dropout``; so are the ``state_dict`` keys.

    >>> SegNetBasicEncoderAddition(num_classes=11).eval()(torch.randn(1, 3, 45, 60)).shape
    torch.Size([1, 11, 45, 60])
    """

    def __init__(self, num_classes: int, in_channels: int = 3, lrn: bool = True, width: int = 64) -> None:
        super().__init__(num_classes, in_channels, lrn, width)
        self.encoder = MapEncoder(in_channels, width)
        self.decoder = nn.Module()
        for s in reversed(STAGES):
            self.decoder.add_module(f"stage{s}", BasicDecoderStage(width, dropout=0.0))
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise(self, bn_bias=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 16, odd ones too."""
        x, kept = self.encoder(self._prepare(x))
        for s in reversed(STAGES):
            codes, map = kept[s - 1]
            x = run_stage(getattr(self.decoder, f"stage{s}"), x, codes, map.shape[-2:]) + map
        return self.classifier(x)


class SegNetBasicSingleChannelDecoder(_Variant):
    """Table 1's SegNet-Basic-SingleChannelDecoder: each decoder filter convolves the one map of its channel.

    Arguments and errors are those of :class:`segnet_ext.SegNetBasic`, without ``dropout``. The unpooled maps are made
    by torch: the fused operation is for filters over all channels.

    >>> SegNetBasicSingleChannelDecoder(num_classes=11).eval()(torch.randn(1, 3, 45, 60)).shape
    torch.Size([1, 11, 45, 60])
    """

    def __init__(self, num_classes: int, in_channels: int = 3, lrn: bool = True, width: int = 64) -> None:
        super().__init__(num_classes, in_channels, lrn, width)
        self.encoder = BasicEncoder(in_channels, width, dropout=0.0)
        self.decoder = nn.Module()
        for s in reversed(STAGES):
            self.decoder.add_module(f"stage{s}", SingleChannelDecoderStage(width))
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise(self, bn_bias=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 16, odd ones too."""
        x, pools = self.encoder(self._prepare(x))
        for s in reversed(STAGES):
            x = run_stage(getattr(self.decoder, f"stage{s}"), x, *pools[s - 1])
        return self.classifier(x)


class FCNBasic(_Variant):
    """Table 1's FCN-Basic and its three relatives: FCN's decoding on SegNet-Basic's encoder.

    A 1x1 convolution reduces the fourth pooled map to ``num_classes`` channels. Each decoder stage takes it to twice
    the size by an 8x8 transposed convolution that is learnt, starting from bilinear interpolation (the 4x4 weights of
    factor 2 inside zeros), cut to the size that the encoder pooled; then the encoder's map, what that stage's pool
    sees, is reduced by another 1x1 convolution and added. What the last stage gives are the logits.

    Args:
        num_classes, in_channels, lrn, width: as in :class:`segnet_ext.SegNetBasic`.
        addition: add the encoder's maps; False is FCN-Basic-NoAddition.
        dim_reduction: False is FCN-Basic-NoDimReduction: no map is reduced, the decoder works on ``width`` channels,
            and a 1x1 classifier ends it. With both False it is FCN-Basic-NoAddition-NoDimReduction.

    Raises:
        ValueError: as :class:`segnet_ext.SegNetBasic`.

    >>> FCNBasic(num_classes=11).eval()(torch.randn(1, 3, 45, 60)).shape
    torch.Size([1, 11, 45, 60])
    """

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
        self.encoder = MapEncoder(in_channels, width) if addition else BasicEncoder(in_channels, width, dropout=0.0)
        channels = num_classes if dim_reduction else width
        self.reduction = nn.Conv2d(width, channels, 1) if dim_reduction else nn.Identity()
        self.decoder = nn.Module()
        for s in reversed(STAGES):
            self.decoder.add_module(f"stage{s}", FCNDecoderStage(channels, width, addition, dim_reduction))
        self.classifier = nn.Identity() if dim_reduction else nn.Conv2d(width, num_classes, 1)
        initialise(self, bn_bias=0.001)
        bilinear_upsampling(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 16, odd ones too."""
        x, kept = self.encoder(self._prepare(x))
        x = self.reduction(x)
        for s in reversed(STAGES):
            _, last = kept[s - 1]  # the map, or the size alone where no map is kept
            size, map = (last.shape[-2:], last) if self.addition else (last, None)
            x = run_stage(getattr(self.decoder, f"stage{s}"), x, size, map)
        return self.classifier(x)
