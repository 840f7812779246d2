"""Further rivals of a whole model's inference: BatchNorm folded away, and ONNX Runtime."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import segnet_ext
from segnet_ext import reference
from segnet_ext.export import onnx_model


def missing_packages(*names: str) -> str | None:
    """Says which of the modules are not installed, and what to install."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not found: pip install 'segnet_ext[bench]'" if missing else None


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of a reference model, in evaluation mode, whose convolutions have taken in the BatchNorms behind them."""
    model = copy.deepcopy(model).eval()
    for stage in model.modules():
        children = dict(stage.named_children())
        for name, conv in children.items():
            bn_name = name.replace("conv", "bn")
            bn = children.get(bn_name)
            if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
                setattr(stage, name, fuse_conv_bn_eval(conv, bn))
                setattr(stage, bn_name, nn.Identity())
    return model


def onnx_session(model: nn.Module, threads: int | None = None) -> Callable[[Tensor], Tensor]:
    """ONNX Runtime's inference of a reference model, on as many threads as torch's, by MaxUnpool, the faster way."""
    import onnxruntime

    num_classes = model.classifier.out_channels
    twin: nn.Module
    if isinstance(model, reference.SegNetBasic):
        twin = segnet_ext.SegNetBasic(num_classes, model.in_channels, lrn=model.lrn, width=model.classifier.in_channels)
    else:
        twin = segnet_ext.SegNet(num_classes, model.in_channels)
    twin.load_state_dict(model.state_dict())

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    # Its threads would go on spinning for work while others are timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    graph = onnx_model(twin, unpool="max-unpool").SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.contiguous().numpy()})[0])
