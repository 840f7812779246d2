"""SegNet, SegNet-Basic and what the paper compares with them, on the fused operations."""

from .deconvnet import DeconvNet
from .deeplab import DeepLabLargeFOV
from .fcn import FCN
from .segnet import SegNet
from .segnet_basic import SegNetBasic
from .variants import BilinearInterpolation, FCNBasic, SegNetBasicEncoderAddition, SegNetBasicSingleChannelDecoder

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
]
