"""DeepLab-LargeFOV: VGG16 that stops pooling at an eighth of the size and looks further by dilation."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from .._model_common import check_arguments, check_input, check_width, initialise
from ..nn import bn_relu_conv2d
from .fcn import FullyConnected
from .segnet import ENCODER, EncoderStage
from .stage import Stage, StagedModel, run_stage
from .vgg16 import VGG16Encoder

# Dilations of the convolutions in the stages whose pool has stride 1.
DILATIONS = {4: 1, 5: 2}
FC6_DILATION = 12


class DilatedStage(Stage):
    """(3x3 conv, BatchNorm, ReLU) for each width, then a 3x3 pool of stride 1, which keeps the size."""

    def __init__(self, in_channels: int, widths: Sequence[int], dilation: int) -> None:
        super().__init__()
        self.depth = len(widths)
        self.dilation = dilation
        for i, width in enumerate(widths, start=1):
            self.add_module(f"conv{i}", nn.Conv2d(in_channels, width, 3, padding=dilation, dilation=dilation))
            self.add_module(f"bn{i}", nn.BatchNorm2d(width))
            in_channels = width

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, K, H, W]."""
        for i in range(1, self.depth + 1):
            x = self._convolve(getattr(self, f"bn{i - 1}") if i > 1 else None, getattr(self, f"conv{i}"), x)
        x = F.relu(getattr(self, f"bn{self.depth}")(x))
        return F.max_pool2d(x, 3, stride=1, padding=1)

    def _convolve(self, norm: nn.Module | None, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """``norm`` and a ReLU are due on ``x``, unless it is None. The fused operations know no dilation."""
        if self.dilation > 1:
            return conv(x if norm is None else F.relu(norm(x)))
        return ops.conv2d(x, conv.weight, conv.bias) if norm is None else bn_relu_conv2d(norm, conv, x)


class DeepLabLargeFOV(VGG16Encoder, StagedModel):
    """DeepLab-LargeFOV on VGG16 (Chen et al., ICLR 2015), with BatchNorm, as the SegNet paper compares it (4.2).

    Pools 1 to 3 halve the size, pools 4 and 5 are 3x3 of stride 1, so the map behind them is an eighth of the image.
    conv5_1 to conv5_3 have dilation 2. A 3x3 average, then fc6, a 3x3 convolution of dilation 12, fc7 and the scores,
    1x1 convolutions, work at that size; the scores are interpolated to eight times the size (bilinear) and cut to the
    image's. 20.5 million parameters for 11 classes.

    Two things differ from the authors' ``DeepLab-LargeFOV/train.prototxt``: every convolution but the scores has a
    BatchNorm before its ReLU, as in the SegNet paper, and pools 1 to 3 are VGG16's 2x2 ones rather than 3x3. The dense
    CRF that DeepLab may be followed by is left out, as in the SegNet paper's tables: no package that is kept up has
    one.

    The first three stages are :class:`segnet_ext.SegNet`'s, and of the fourth each BatchNorm and ReLU is fused with the
    convolution behind it; pools of stride 1 and dilated convolutions are torch's. :func:`segnet_ext.freeze` and the
    ONNX export do not know this model; autocast, ``torch.compile`` and ``torch.export`` take it as it is.

    Args:
        num_classes: channels of the logits.
        in_channels: channels of the input.
        dropout: probability after fc6 and fc7, the authors' 0.5.
        fc_channels: channels of fc6 and fc7.

    Raises:
        ValueError: ``num_classes``, ``in_channels`` or ``fc_channels`` below 1, ``dropout`` outside [0, 1); in
            ``forward``, an input that is not [N, in_channels, H, W] with H, W >= 32.

    >>> DeepLabLargeFOV(num_classes=11).eval()(torch.randn(1, 3, 45, 60)).shape
    torch.Size([1, 11, 45, 60])
    """

    def __init__(self, num_classes: int, in_channels: int = 3, dropout: float = 0.5, fc_channels: int = 1024) -> None:
        super().__init__()
        check_arguments("DeepLabLargeFOV", num_classes, in_channels, dropout)
        check_width("DeepLabLargeFOV", fc_channels, "fc_channels")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.encoder = nn.Module()
        channels = in_channels
        for s, widths in ENCODER.items():
            stage = (
                DilatedStage(channels, widths, DILATIONS[s]) if s in DILATIONS else EncoderStage(channels, widths, 0.0)
            )
            self.encoder.add_module(f"stage{s}", stage)
            channels = widths[-1]
        self.fc = FullyConnected(fc_channels, kernel_size=3, dilation=FC6_DILATION, dropout=dropout)
        self.score = nn.Conv2d(fc_channels, num_classes, 1)
        initialise(self, bn_bias=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 32, odd ones too."""
        check_input("DeepLabLargeFOV", x, self.in_channels, min_size=32)
        height, width = x.shape[-2:]
        x = x.contiguous(memory_format=torch.channels_last)
        for s in ENCODER:
            result = run_stage(getattr(self.encoder, f"stage{s}"), x)
            x = result if s in DILATIONS else result[0]
        x = F.avg_pool2d(x, 3, stride=1, padding=1)
        x = self.fc.then(self.score, run_stage(self.fc, x))
        x = F.interpolate(x, scale_factor=8, mode="bilinear", align_corners=False)
        return x[..., :height, :width]
