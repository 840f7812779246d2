"""SegNet, SegNet-Basic and the decoder variants that the paper compares with it, on the fused operations."""

from .segnet import SegNet
from .segnet_basic import SegNetBasic
from .variants import BilinearInterpolation, FCNBasic, SegNetBasicEncoderAddition, SegNetBasicSingleChannelDecoder

__all__ = [
    "BilinearInterpolation",
    "FCNBasic",
    "SegNet",
    "SegNetBasic",
    "SegNetBasicEncoderAddition",
    "SegNetBasicSingleChannelDecoder",
]
