"""The fused operations as functions; each works under autograd, autocast, torch.compile and torch.export.

``segnet_ext.reference`` has the same functions in plain torch: it is their specification.
"""

from segnet_ext.ops.bn_relu_conv2d import bn_relu_conv2d, conv2d, conv2d_relu_max_pool2d
from segnet_ext.ops.bn_relu_max_pool2d import bn_relu_max_pool2d
from segnet_ext.ops.codes_to_indices import codes_to_indices
from segnet_ext.ops.indices_to_codes import indices_to_codes
from segnet_ext.ops.max_pool2d_with_codes import max_pool2d_with_codes
from segnet_ext.ops.max_unpool2d_conv2d import max_unpool2d_conv2d

__all__ = [
    "bn_relu_conv2d",
    "bn_relu_max_pool2d",
    "codes_to_indices",
    "conv2d",
    "conv2d_relu_max_pool2d",
    "indices_to_codes",
    "max_pool2d_with_codes",
    "max_unpool2d_conv2d",
]
