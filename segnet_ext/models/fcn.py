"""FCN: VGG16 made convolutional, its coarse scores upsampled and added to those of earlier pools."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._model_common import (
    bilinear_upsampling,
    check_arguments,
    check_input,
    check_width,
    dropout_layer,
    initialise,
)
from ..nn import bn_relu_conv2d
from .segnet import ENCODER, Encoder
from .stage import Stage, StagedModel, run_stage
from .vgg16 import VGG16Encoder


class FullyConnected(Stage):
    """VGG16's fc6 and fc7 as convolutions, each with BatchNorm, ReLU and dropout; the last three of fc7 are due."""

    def __init__(self, width: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.fc6 = nn.Conv2d(ENCODER[5][-1], width, kernel_size, padding=padding, dilation=dilation)
        self.bn6 = nn.BatchNorm2d(width)
        self.fc7 = nn.Conv2d(width, width, 1)
        self.bn7 = nn.BatchNorm2d(width)
        self.dropout = dropout_layer(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 512, H, W] to what fc7 gives, [N, width, H, W]; :meth:`then` convolves it further."""
        return self._after(self.bn6, self.fc7, self.fc6(x))

    def then(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """``conv`` of fc7's map behind its BatchNorm, ReLU and dropout."""
        return self._after(self.bn7, conv, x)

    def _after(self, norm: nn.Module, conv: nn.Conv2d, x: Tensor) -> Tensor:
        if isinstance(self.dropout, nn.Dropout) and self.dropout.training:
            return conv(self.dropout(F.relu(norm(x))))
        return bn_relu_conv2d(norm, conv, x)


def upsampling(channels: int, factor: int, learnt: bool) -> nn.Module:
    """To ``factor`` times the size: fixed bilinear interpolation, or a transposed convolution that starts as that."""
    if not learnt:
        return nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)
    return nn.ConvTranspose2d(channels, channels, 2 * factor, stride=factor, padding=factor // 2, bias=False)


class FCN(VGG16Encoder, StagedModel):
    """FCN-8s on VGG16 (Long, Shelhamer, Darrell, CVPR 2015), with BatchNorm, as the SegNet paper compares it (4.2).

    fc6 and fc7 are convolutions of ``fc_channels`` channels on the fifth pooled map. 1x1 convolutions make scores of
    fc7, pool4 and pool3; those of fc7 are upsampled to twice the size and added to pool4's, the sum upsampled to twice
    the size and added to pool3's, and that sum upsampled to eight times the size. What an upsampling gives beyond the
    size of the map that was pooled is cut off. 134.3 million parameters for 11 classes.

    Two things differ from the authors' ``fcn8s.prototxt``: every convolution but the scores has a BatchNorm before its
    ReLU, as in the SegNet paper, and fc6 pads its input by 3, where theirs pads the image by 100.

    The encoder is :class:`segnet_ext.SegNet`'s, fused operations and all; fc7 and the scores are fused with the
    BatchNorm and ReLU before them unless dropout is at work in between. :func:`segnet_ext.freeze` and the ONNX export
    do not know this model; autocast, ``torch.compile`` and ``torch.export`` take it as it is.

    Args:
        num_classes: channels of the logits.
        in_channels: channels of the input.
        dropout: probability after fc6 and fc7, the authors' 0.5.
        learnt_deconv: upsample by transposed convolutions of 4x4, 4x4 and 16x16, which start as bilinear interpolation
            and are learnt; else by bilinear interpolation, which is fixed and has no parameters.
        fc_channels: channels of fc6 and fc7.

    Raises:
        ValueError: ``num_classes``, ``in_channels`` or ``fc_channels`` below 1, ``dropout`` outside [0, 1); in
            ``forward``, an input that is not [N, in_channels, H, W] with H, W >= 32, or, in training, a single image
            of 32x32: fc6's BatchNorm then sees one value a channel.

    >>> FCN(num_classes=11, fc_channels=64).eval()(torch.randn(1, 3, 45, 60)).shape
    torch.Size([1, 11, 45, 60])
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        dropout: float = 0.5,
        learnt_deconv: bool = False,
        fc_channels: int = 4096,
    ) -> None:
        super().__init__()
        check_arguments("FCN", num_classes, in_channels, dropout)
        check_width("FCN", fc_channels, "fc_channels")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.encoder = Encoder(in_channels, dropout=0.0)
        self.fc = FullyConnected(fc_channels, kernel_size=7, dilation=1, dropout=dropout)
        self.score = nn.Conv2d(fc_channels, num_classes, 1)
        self.score_pool4 = nn.Conv2d(ENCODER[4][-1], num_classes, 1)
        self.score_pool3 = nn.Conv2d(ENCODER[3][-1], num_classes, 1)
        self.upsample5 = upsampling(num_classes, 2, learnt_deconv)
        self.upsample4 = upsampling(num_classes, 2, learnt_deconv)
        self.upsample3 = upsampling(num_classes, 8, learnt_deconv)
        initialise(self, bn_bias=0.0)
        bilinear_upsampling(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 32, odd ones too."""
        check_input("FCN", x, self.in_channels, min_size=32)
        height, width = x.shape[-2:]
        x = x.contiguous(memory_format=torch.channels_last)
        pooled = {}
        for s in ENCODER:
            x, _ = run_stage(getattr(self.encoder, f"stage{s}"), x)
            if s in (3, 4):
                pooled[s] = x
        pool3, pool4 = pooled[3], pooled[4]
        x = self.fc.then(self.score, run_stage(self.fc, x))
        x = self.upsample5(x)[..., : pool4.shape[2], : pool4.shape[3]] + self.score_pool4(pool4)
        x = self.upsample4(x)[..., : pool3.shape[2], : pool3.shape[3]] + self.score_pool3(pool3)
        return self.upsample3(x)[..., :height, :width]
