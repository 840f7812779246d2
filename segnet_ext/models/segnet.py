"""SegNet: VGG16's thirteen convolutions down, thirteen up, pool winners carried across."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from .._model_common import check_arguments, check_input, dropout_layer, initialise
from ..nn import BNReLUMaxPool2d, MaxUnpoolConv2d, bn_relu_conv2d
from .stage import Stage, StagedModel, run_stage
from .vgg16 import VGG16Encoder

# Widths of conv{s}_1, conv{s}_2, ... of encoder stage s.
ENCODER = {1: (64, 64), 2: (128, 128), 3: (256, 256, 256), 4: (512, 512, 512), 5: (512, 512, 512)}
# Widths of conv{s}_3_D, conv{s}_2_D, conv{s}_1_D of decoder stage s, after its unpooling. conv1_1_D is the classifier.
DECODER = {5: (512, 512, 512), 4: (512, 512, 256), 3: (256, 256, 128), 2: (128, 64), 1: (64,)}
# Bayesian SegNet (bayesian_segnet_train.prototxt) drops after pool3-5 and after conv5_1_D, conv4_1_D, conv3_1_D.
DROPOUT_STAGES = (3, 4, 5)


class EncoderStage(Stage):
    """(3x3 conv, BatchNorm, ReLU) for each width, each BatchNorm and ReLU fused with the next conv or with the pool."""

    def __init__(self, in_channels: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.depth = len(widths)
        for i, width in enumerate(widths, start=1):
            last = i == self.depth
            self.add_module(f"conv{i}", nn.Conv2d(in_channels, width, 3, padding=1))
            self.add_module(f"bn{i}", BNReLUMaxPool2d(width, ceil_mode=True) if last else nn.BatchNorm2d(width))
            in_channels = width
        self.dropout = dropout_layer(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H, W] to the pooled map [N, K, ceil(H / 2), ceil(W / 2)] and its codes."""
        first = self.conv1
        assert isinstance(first, nn.Conv2d)
        x = ops.conv2d(x, first.weight, first.bias)
        for i in range(2, self.depth + 1):
            x = bn_relu_conv2d(getattr(self, f"bn{i - 1}"), getattr(self, f"conv{i}"), x)
        x, codes = getattr(self, f"bn{self.depth}")(x)
        return self.dropout(x), codes


class DecoderStage(Stage):
    """(3x3 conv, BatchNorm, ReLU) for each width, numbered downwards; the first conv is fused with the unpooling.

    Each BatchNorm and ReLU is fused with the next conv; the last one with that of the next stage, which takes it as
    ``norm``, unless dropout comes in between.
    """

    def __init__(self, in_channels: int, first: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.order = tuple(range(first, first - len(widths), -1))
        for i, width in zip(self.order, widths, strict=True):
            conv = MaxUnpoolConv2d(in_channels, width) if i == first else nn.Conv2d(in_channels, width, 3, padding=1)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(width))
            in_channels = width
        self.dropout = dropout_layer(dropout)

    @property
    def norm(self) -> nn.Module:
        """The last BatchNorm."""
        return getattr(self, f"bn{self.order[-1]}")

    def forward(
        self,
        x: Tensor,
        codes: Tensor,
        size: Sequence[int],
        norm: nn.Module | None = None,
        leave_norm: bool = False,
    ) -> Tensor:
        """A pooled map, the codes and the size (H, W) from before that pool, to [N, K, H, W].

        With ``norm``, that BatchNorm and a ReLU are due on ``x``. With ``leave_norm``, :attr:`norm`, a ReLU and dropout
        are due on what is returned.
        """
        first, *others = self.order
        conv = getattr(self, f"conv{first}")
        x = conv(x, codes, size) if norm is None else bn_relu_conv2d(norm, conv, x, codes, size)
        for i in others:
            x = bn_relu_conv2d(getattr(self, f"bn{i + 1}"), getattr(self, f"conv{i}"), x)
        return x if leave_norm else self.dropout(F.relu(self.norm(x)))


class Encoder(nn.Module):
    """Stages 1 to 5."""

    def __init__(self, in_channels: int, dropout: float) -> None:
        super().__init__()
        for s, widths in ENCODER.items():
            self.add_module(f"stage{s}", EncoderStage(in_channels, widths, dropout if s in DROPOUT_STAGES else 0.0))
            in_channels = widths[-1]

    def forward(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, torch.Size]]]:
        """The fifth pooled map, and the codes and input size of every pool, first stage first."""
        pools = []
        for s in ENCODER:
            size = x.shape[-2:]
            x, codes = run_stage(getattr(self, f"stage{s}"), x)
            pools.append((codes, size))
        return x, pools


class Decoder(nn.Module):
    """Stages 5 to 1."""

    def __init__(self, dropout: float, extra_conv: bool = False) -> None:
        super().__init__()
        self.widths = {**DECODER, 1: DECODER[1] * 2} if extra_conv else DECODER
        channels = ENCODER[5][-1]
        for s, widths in self.widths.items():
            stage = DecoderStage(channels, len(ENCODER[s]), widths, dropout if s in DROPOUT_STAGES else 0.0)
            self.add_module(f"stage{s}", stage)
            channels = widths[-1]

    def forward(
        self, x: Tensor, pools: list[tuple[Tensor, torch.Size]], norm: nn.Module | None = None
    ) -> tuple[Tensor, nn.Module]:
        """The map of the last conv, and the BatchNorm that is due on it, with a ReLU; so is ``norm`` on ``x``."""
        for s in DECODER:
            stage = getattr(self, f"stage{s}")
            fused = isinstance(stage.dropout, nn.Identity)
            x = run_stage(stage, x, *pools[s - 1], norm, fused)
            norm = stage.norm if fused else None
        assert norm is not None  # stage 1 has no dropout
        return x, norm


class SegNet(VGG16Encoder, StagedModel):
    """SegNet (Badrinarayanan, Kendall, Cipolla, TPAMI 2017, section 3; the authors' ``segnet_train.prototxt``).

    26 3x3 convolutions with bias, 25 of them followed by BatchNorm and ReLU; 29,449,355 parameters for 11 classes. A
    ``state_dict`` key reads as the path: ``encoder.stage4.conv2.weight`` is the prototxt's conv4_2, and
    ``decoder.stage4.conv2.weight`` its conv4_2_D; conv1_1_D is ``classifier``. The last BatchNorm of an encoder stage
    is a fused :class:`segnet_ext.nn.BNReLUMaxPool2d`, the first convolution of a decoder stage a fused
    :class:`segnet_ext.nn.MaxUnpoolConv2d`, and every other BatchNorm is fused with the convolution behind it by
    :func:`segnet_ext.nn.bn_relu_conv2d`, which calls neither module: hooks on them do not run.

    Weights start as in the prototxt ("msra", biases 0); :meth:`load_vgg16` starts the encoder from VGG16, as the paper
    does. :meth:`set_grad_checkpointing` trains with less memory.

    Args:
        num_classes: channels of the logits.
        in_channels: channels of the input.
        dropout: probability after pools 3-5 and decoder stages 5-3 (Bayesian SegNet: 0.5); 0 for plain SegNet.
        extra_conv: a second 64-channel convolution with BatchNorm and ReLU in decoder stage 1, before the classifier: a
            known PyTorch SegNet has it, not the authors'.

    Raises:
        ValueError: ``num_classes`` or ``in_channels`` below 1, ``dropout`` outside [0, 1); in ``forward``, an input
            that is not [N, in_channels, H, W] with H, W >= 32.

    >>> model = SegNet(num_classes=11).eval()
    >>> model(torch.randn(1, 3, 45, 60)).shape
    torch.Size([1, 11, 45, 60])
    """

    def __init__(self, num_classes: int, in_channels: int = 3, dropout: float = 0.0, extra_conv: bool = False) -> None:
        super().__init__()
        check_arguments("SegNet", num_classes, in_channels, dropout)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.input_form: nn.Module = nn.Identity()  # another where weights that were converted see images otherwise
        self.encoder = Encoder(in_channels, dropout)
        self.decoder = Decoder(dropout, extra_conv)
        self.classifier = nn.Conv2d(DECODER[1][-1], num_classes, 3, padding=1)
        initialise(self, bn_bias=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 32, odd ones too."""
        check_input("SegNet", x, self.in_channels, min_size=32)
        x, pools = self.encoder(self.input_form(x).contiguous(memory_format=torch.channels_last))
        x, norm = self.decoder(x, pools)
        return bn_relu_conv2d(norm, self.classifier, x)
