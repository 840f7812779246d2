"""Further rivals of a whole model's inference: BatchNorm folded away, and ONNX Runtime on a graph built by hand.

torch's own ONNX exporter does not do max unpooling, so :func:`onnx_graph` writes the nodes of ``segnet_ext.reference``
models itself. ONNX counts the indices of a pool over [N, C, H, W] where torch counts them in each plane; MaxUnpool
reads them as MaxPool wrote them, given the size of the pooled map, so nothing needs converting.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segnet_ext import reference

OPSET = 17


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


class _Graph:
    """Nodes and weights in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> list[str]:
        import onnx

        names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(onnx.helper.make_node(op, inputs, names, **attributes))
        return names

    def weight(self, tensor: Tensor) -> str:
        import onnx

        name = f"weight_{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(tensor.detach().contiguous().numpy(), name))
        return name

    def conv(self, x: str, conv: nn.Module) -> str:
        assert isinstance(conv, nn.Conv2d)
        inputs = [x, self.weight(conv.weight)] + ([] if conv.bias is None else [self.weight(conv.bias)])
        return self.add("Conv", inputs, pads=2 * list(conv.padding), kernel_shape=list(conv.kernel_size))[0]


def onnx_graph(model: nn.Module) -> Any:
    """The inference of a reference.SegNet or SegNetBasic, BatchNorm folded, as an ONNX model for images of any size."""
    import onnx

    model = fold_batch_norm(model)
    graph, x = _Graph(), "images"
    basic = isinstance(model, reference.SegNetBasic)
    if basic and model.lrn:
        (x,) = graph.add("LRN", [x], size=5, alpha=1e-4, beta=0.75, bias=1.0)
    pools = []
    for stage in model.encoder.children():
        for conv in _convs(stage):
            (x,) = graph.add("Relu", [graph.conv(x, conv)])
        (size,) = graph.add("Shape", [x])
        x, indices = graph.add("MaxPool", [x], 2, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
        pools.append((indices, size))
    for stage in model.decoder.children():
        # ONNX Runtime refuses a size below the one that the attributes give. With these pads that is the odd one.
        (x,) = graph.add("MaxUnpool", [x, *pools.pop()], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1])
        for conv in _convs(stage):
            x = graph.conv(x, conv)
            if not basic:
                (x,) = graph.add("Relu", [x])
    logits = graph.conv(x, model.classifier)
    image, output = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", channels, "H", "W"])
        for name, channels in (("images", model.in_channels), (logits, model.classifier.out_channels))
    )
    body = onnx.helper.make_graph(graph.nodes, "segnet", [image], [output], graph.weights)
    written = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    written.ir_version = 8  # of that opset's time: a runtime older than the onnx package reads it too
    onnx.checker.check_model(written)
    return written


def _convs(stage: nn.Module) -> list[nn.Module]:
    """In the order in which they run, which is that in which the stage was built."""
    return [child for child in stage.children() if isinstance(child, nn.Conv2d)]


def onnx_session(model: nn.Module, threads: int | None = None) -> Callable[[Tensor], Tensor]:
    """ONNX Runtime's inference of a reference model, on as many threads as torch's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    # Its threads would go on spinning for work while others are timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        onnx_graph(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: torch.from_numpy(session.run(None, {"images": images.contiguous().numpy()})[0])
