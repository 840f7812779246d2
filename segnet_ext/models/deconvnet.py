"""DeconvNet: VGG16 with its fully connected layers, and the same again upwards, by unpooling and deconvolution."""

import torch
from torch import Tensor, nn

from .._model_common import check_arguments, check_input, check_width, initialise
from ..nn import bn_relu_conv2d
from .fcn import FullyConnected
from .segnet import DECODER, ENCODER, Decoder, Encoder
from .stage import StagedModel, run_stage
from .vgg16 import VGG16Encoder


class DeconvNet(VGG16Encoder, StagedModel):
    """DeconvNet on VGG16 (Noh, Hong, Han, ICCV 2015), as the SegNet paper compares it (4.2): fc layers of 1024.

    Behind SegNet's encoder come fc6 (7x7), fc7 (1x1) and fc6's deconvolution back to 512 channels (7x7), then five
    stages of unpooling and 3x3 deconvolutions, 512x3 / 512, 512, 256 / 256, 256, 128 / 128, 64 / 64, 64 channels, then
    the scores, a 1x1 convolution. Every convolution and deconvolution but the scores has BatchNorm and ReLU. 81.9
    million parameters for 11 classes.

    A deconvolution of stride 1, that is a transposed convolution, is the convolution with its kernel turned by half a
    turn and its channels' axes swapped: ``conv_transpose2d(x, w, padding=k // 2)`` is
    ``conv2d(x, w.flip(2, 3).transpose(0, 1), padding=k // 2)``. The parameters here are those of the convolution, [K,
    C, k, k], so the first deconvolution of each stage is the fused :class:`segnet_ext.nn.MaxUnpoolConv2d`, and the
    decoder is :class:`segnet_ext.SegNet`'s with one convolution more in stage 1, ``state_dict`` keys included.

    fc6 pads its input by 3 and so keeps the size of the fifth pooled map, where the authors' does not pad, for images
    of 224x224 alone; its deconvolution likewise. There is no dropout. :func:`segnet_ext.freeze` and the ONNX export do
    not know this model; autocast, ``torch.compile`` and ``torch.export`` take it as it is.

    Args:
        num_classes: channels of the logits.
        in_channels: channels of the input.
        fc_channels: channels of fc6 and fc7, 4096 in the authors' network.

    Raises:
        ValueError: ``num_classes``, ``in_channels`` or ``fc_channels`` below 1; in ``forward``, an input that is not
            [N, in_channels, H, W] with H, W >= 32, or, in training, a single image of 32x32: fc6's BatchNorm then sees
            one value a channel.

    >>> DeconvNet(num_classes=11, fc_channels=64).eval()(torch.randn(1, 3, 45, 60)).shape
    torch.Size([1, 11, 45, 60])
    """

    def __init__(self, num_classes: int, in_channels: int = 3, fc_channels: int = 1024) -> None:
        super().__init__()
        check_arguments("DeconvNet", num_classes, in_channels, dropout=0.0)
        check_width("DeconvNet", fc_channels, "fc_channels")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.encoder = Encoder(in_channels, dropout=0.0)
        self.fc = FullyConnected(fc_channels, kernel_size=7, dilation=1, dropout=0.0)
        self.fc6_deconv = nn.Conv2d(fc_channels, ENCODER[5][-1], 7, padding=3)
        self.bn6_deconv = nn.BatchNorm2d(ENCODER[5][-1])
        self.decoder = Decoder(dropout=0.0, extra_conv=True)
        self.score = nn.Conv2d(DECODER[1][-1], num_classes, 1)
        initialise(self, bn_bias=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] to logits [N, num_classes, H, W]; any H, W >= 32, odd ones too."""
        check_input("DeconvNet", x, self.in_channels, min_size=32)
        x, pools = self.encoder(x.contiguous(memory_format=torch.channels_last))
        x = self.fc.then(self.fc6_deconv, run_stage(self.fc, x))
        x, norm = self.decoder(x, pools, self.bn6_deconv)
        return bn_relu_conv2d(norm, self.score, x)
