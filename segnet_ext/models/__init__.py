"""SegNet and SegNet-Basic on the fused operations."""

from .segnet import SegNet
from .segnet_basic import SegNetBasic

__all__ = ["SegNet", "SegNetBasic"]
