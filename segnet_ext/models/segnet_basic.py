"""SegNet-Basic: four stages down, four up, 7x7 convolutions of one width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._model_common import check_arguments, check_input, check_width, dropout_layer, initialise
from ..nn import BNReLUMaxPool2d, MaxUnpoolConv2d
from .stage import Stage, StagedModel, run_stage

if TYPE_CHECKING:
    from ..classes import ClassSet

STAGES = (1, 2, 3, 4)
# bayesian_segnet_basic_train.prototxt drops after pool3, pool4, conv_decode4 and conv_decode3.
DROPOUT_STAGES = (3, 4)


def normalise_input(x: Tensor) -> Tensor:
    """The local response normalisation of the authors' first layer."""
    # In float32 for half-precision input: torch has no half kernel for it on the CPU, and squares overflow.
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return F.local_response_norm(wide, size=5, alpha=1e-4, beta=0.75).to(x.dtype)


class BasicEncoderStage(Stage):
    """7x7 conv, then BatchNorm, ReLU and pool in one pass."""

    def __init__(self, in_channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 7, padding=3)
        self.bn = BNReLUMaxPool2d(width, ceil_mode=True)
        self.dropout = dropout_layer(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H, W] to the pooled map [N, K, ceil(H / 2), ceil(W / 2)] and its codes."""
        x, codes = self.bn(self.conv(x))
        return self.dropout(x), codes


class BasicDecoderStage(Stage):
    """Unpooling and 7x7 conv in one pass, then BatchNorm. The paper's decoder of SegNet-Basic has no ReLU."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.conv = MaxUnpoolConv2d(width, width, kernel_size=7)
        self.bn = nn.BatchNorm2d(width)
        self.dropout = dropout_layer(dropout)

    def forward(self, x: Tensor, codes: Tensor, size: Sequence[int]) -> Tensor:
        """A pooled map, the codes and the size (H, W) from before that pool, to [N, K, H, W]."""
        return self.dropout(self.bn(self.conv(x, codes, size)))


class BasicEncoder(nn.Module):
    """Stages 1 to 4."""

    def __init__(self, in_channels: int, width: int, dropout: float) -> None:
        super().__init__()
        for s in STAGES:
            self.add_module(f"stage{s}", BasicEncoderStage(in_channels, width, dropout if s in DROPOUT_STAGES else 0.0))
            in_channels = width

    def forward(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, torch.Size]]]:
        """The fourth pooled map, and the codes and input size of every pool, first stage first."""
        pools = []
        for s in STAGES:
            size = x.shape[-2:]
            x, codes = run_stage(getattr(self, f"stage{s}"), x)
            pools.append((codes, size))
        return x, pools


class BasicDecoder(nn.Module):
    """Stages 4 to 1."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        for s in reversed(STAGES):
            self.add_module(f"stage{s}", BasicDecoderStage(width, dropout if s in DROPOUT_STAGES else 0.0))

    def forward(self, x: Tensor, pools: list[tuple[Tensor, torch.Size]]) -> Tensor:
        for s in reversed(STAGES):
            x = run_stage(getattr(self, f"stage{s}"), x, *pools[s - 1])
        return x


class SegNetBasic(StagedModel):
    """SegNet-Basic (TPAMI 2017, section 3.1; the authors' ``segnet_basic_train.prototxt``).

    Eight 7x7 convolutions with bias and BatchNorm, ReLU in the encoder only, and a 1x1 classifier. A ``state_dict`` key
    reads as the path: ``encoder.stage2.conv.weight`` is the prototxt's conv2, ``decoder.stage2.conv.weight`` its
    conv_decode2.

    Args:
        num_classes: channels of the logits.
        in_channels: channels of the input.
        dropout: probability after pools 3-4 and decoder stages 4-3 (Bayesian SegNet-Basic: 0.5); 0 for the plain model.
        lrn: local response normalisation of the input across channels (size 5, alpha 1e-4, beta 0.75), as the authors'.
        width: channels of every stage; the authors' is 64.

    Attributes:
        classes: names and colours of the channels of the logits, where :meth:`from_pretrained` tells them; else None.

    Raises:
        ValueError: ``num_classes``, ``in_channels`` or ``width`` below 1, ``dropout`` outside [0, 1); in ``forward``,
            an input that is not [N, in_channels, H, W] with H, W >= 16.

    >>> model = SegNetBasic(num_classes=11).eval()
    >>> model(torch.randn(1, 3, 45, 60)).shape
    torch.Size([1, 11, 45, 60])
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, dropout: float = 0.0, lrn: bool = True, width: int = 64
    ) -> None:
        super().__init__()
        check_arguments("SegNetBasic", num_classes, in_channels, dropout)
        check_width("SegNetBasic", width)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.lrn = lrn
        self.input_form: nn.Module = nn.Identity()  # another where weights that were converted see images otherwise
        self.encoder = BasicEncoder(in_channels, width, dropout)
        self.decoder = BasicDecoder(width, dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.classes: ClassSet | None = None
        initialise(self, bn_bias=0.001)

    @classmethod
    def from_pretrained(cls, name: str) -> SegNetBasic:
        """A trained model, with weights that come with this package: nothing is downloaded.

        Args:
            name: ``camvid``: street scenes in CamVid's eleven classes, trained at 180x240 for images in RGB, 0 to 1,
                less ImageNet's mean (0.485, 0.456, 0.406), divided by its standard deviation (0.229, 0.224, 0.225), as
                ``segnet_ext.data.images.normalize`` makes them. For research; the model card beside the weights,
                ``segnet_ext/pretrained/segnet-basic-camvid.md``, has its figures and limits.

        Returns:
            The model in eval mode, float32, on the CPU; its ``classes`` has the names and colours.

        Raises:
            ValueError: there are no weights of this name; the message lists those there are.

        >>> model = SegNetBasic.from_pretrained("camvid")
        >>> model.classes.names[3]
        'Road'
        """
        from ..pretrained import read_pretrained  # only now: it knows all models

        checkpoint = read_pretrained(f"{cls.__name__}.from_pretrained", "segnet-basic", name)
        model = cls(len(checkpoint.classes))
        model.load_state_dict(checkpoint.weights)
        model.classes = checkpoint.classes
        return model.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 16, odd ones too."""
        check_input("SegNetBasic", x, self.in_channels, min_size=16)
        x = self.input_form(x)
        if self.lrn:
            x = normalise_input(x)
        x, pools = self.encoder(x.contiguous(memory_format=torch.channels_last))
        return self.classifier(self.decoder(x, pools))
