"""SegNet for PyTorch, with fused kernels for pooling with 2-bit codes and for unpooling followed by a convolution."""

__version__ = "0.1.0"

from segnet_ext import nn, ops, reference
from segnet_ext._extension import build_info, empty_cache
from segnet_ext.inference import freeze
from segnet_ext.models import SegNet, SegNetBasic

__all__ = ["SegNet", "SegNetBasic", "__version__", "build_info", "empty_cache", "freeze", "nn", "ops", "reference"]
