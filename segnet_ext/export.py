"""Models for other runtimes: an ONNX graph of standard operators, and torch.export programs."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segnet_ext.errors import require
from segnet_ext.frozen import (
    Frozen,
    FrozenBasic,
    FrozenBilinearInterpolation,
    FrozenEncoderAddition,
    FrozenFCNBasic,
    FrozenSegNet,
    FrozenSegNetBasic,
    FrozenSingleChannelDecoder,
    freeze,
)
from segnet_ext.input_form import PrepareInput
from segnet_ext.models.segnet import ENCODER
from segnet_ext.models.segnet_basic import STAGES

__all__ = ["OPSET", "UNPOOLINGS", "exported_program", "onnx_model"]

OPSET = 17
# How the graph remembers where a pool's winners were.
UNPOOLINGS = ("select", "max-unpool")


def onnx_model(model: nn.Module, unpool: str = "select", metadata: dict[str, str] | None = None) -> Any:
    """The inference of a model as an ONNX graph, for images of any number and size that the model takes.

    BatchNorm is folded into the convolutions as :func:`segnet_ext.freeze` does. The input ``images`` is float32
    [N, C, H, W], the output ``logits`` float32 [N, K, H, W].

    Args:
        model: :class:`segnet_ext.SegNet`, :class:`segnet_ext.SegNetBasic` or another model of ``segnet_ext.models``.
        unpool: ``select`` compares a window's four pixels with its maximum, first to last, and puts the decoder's value
            where that was: ten operators that every runtime has. ``max-unpool`` is ONNX's MaxUnpool on MaxPool's
            indices, which takes ONNX Runtime a little less time on the CPU and which few other runtimes have.
        metadata: texts to store in the model.

    Returns:
        An ``onnx.ModelProto`` of operator set 17 that ``onnx.checker`` has passed.

    Raises:
        TypeError: ``model`` is none of them.
        ValueError: another ``unpool``, or a BatchNorm has no running statistics.
        InputError: the onnx package is missing.
    """
    if unpool not in UNPOOLINGS:
        raise ValueError(f"onnx_model: unpool must be one of {', '.join(UNPOOLINGS)}, got {unpool!r}")
    frozen = _frozen("onnx_model", model)
    require("onnx_model", "onnx", extra="export")
    import onnx

    graph = _Graph(select=unpool == "select")
    logits = _WRITERS[type(frozen)](graph, frozen)
    graph.nodes.append(onnx.helper.make_node("Identity", [logits], ["logits"]))
    image, output = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", channels, "H", "W"])
        for name, channels in (("images", frozen.in_channels), ("logits", frozen.num_classes))
    )
    body = onnx.helper.make_graph(graph.nodes, "segnet", [image], [output], graph.constants)
    written = onnx.helper.make_model(
        body, opset_imports=[onnx.helper.make_opsetid("", OPSET)], producer_name="segnet_ext"
    )
    written.ir_version = 8  # of that opset's time: a runtime older than the onnx package reads it too
    onnx.helper.set_model_props(written, metadata or {})
    onnx.checker.check_model(written)
    return written


def _frozen(user: str, model: nn.Module) -> Frozen:
    try:
        return freeze(model, torch.float32)
    except TypeError as error:
        raise TypeError(str(error).replace("freeze", user, 1)) from error


def _segnet(graph: _Graph, frozen: FrozenSegNet) -> str:
    x = graph.prepared("images", frozen.input_form)
    pools = []
    for s, widths in ENCODER.items():
        for i in range(1, len(widths) + 1):
            x = graph.relu(graph.conv(x, *frozen._layer(f"encoder{s}_{i}")))
        x, place = graph.pool(x)
        pools.append(place)
    for s, widths in frozen.decoder_widths.items():
        x = graph.unpool(x, pools[s - 1])
        for i in range(len(ENCODER[s]), len(ENCODER[s]) - len(widths), -1):
            x = graph.relu(graph.conv(x, *frozen._layer(f"decoder{s}_{i}")))
    return graph.conv(x, *frozen._layer("classifier"))


def _encode(graph: _Graph, frozen: FrozenBasic, codes: bool = True) -> tuple[str, list[str], list[list[str]]]:
    """The fourth pooled map of SegNet-Basic's encoder, the map that each pool sees, and with ``codes`` the places of
    the winners."""
    x = graph.prepared("images", frozen.input_form)
    if frozen.lrn:
        x = graph.add("LRN", [x], size=5, alpha=1e-4, beta=0.75, bias=1.0)
    maps, pools = [], []
    for s in STAGES:
        x = graph.relu(graph.conv(x, *frozen._layer(f"encoder{s}")))
        maps.append(x)
        if codes:
            x, place = graph.pool(x)
            pools.append(place)
        else:
            x = graph.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    return x, maps, pools


def _segnet_basic(graph: _Graph, frozen: FrozenSegNetBasic) -> str:
    x, maps, pools = _encode(graph, frozen)
    for s in reversed(STAGES):
        x = graph.conv(graph.unpool(x, pools[s - 1]), *frozen._layer(f"decoder{s}"))
        if isinstance(frozen, FrozenEncoderAddition):
            x = graph.add("Add", [x, maps[s - 1]])
    return graph.conv(x, *frozen._layer("classifier"))


def _single_channel_decoder(graph: _Graph, frozen: FrozenSingleChannelDecoder) -> str:
    x, _, pools = _encode(graph, frozen)
    for s in reversed(STAGES):
        weight, bias = frozen._layer(f"decoder{s}")
        x = graph.conv(graph.unpool(x, pools[s - 1]), weight, bias, groups=len(weight))
    return graph.conv(x, *frozen._layer("classifier"))


def _bilinear_interpolation(graph: _Graph, frozen: FrozenBilinearInterpolation) -> str:
    x, maps, _ = _encode(graph, frozen, codes=False)
    x = graph.conv(x, *frozen._layer("classifier"))
    twice = graph.constant(torch.tensor([1.0, 1.0, 2.0, 2.0]))
    for map in reversed(maps):
        x = graph.add("Resize", [x, "", twice], mode="linear", coordinate_transformation_mode="half_pixel")
        x = graph.cut(x, map)
    return x


def _fcn_basic(graph: _Graph, frozen: FrozenFCNBasic) -> str:
    def one_by_one(key: str, x: str) -> str:
        return graph.conv(x, *frozen._layer(key)) if key in frozen.layers else x

    x, maps, _ = _encode(graph, frozen, codes=False)
    x = one_by_one("reduction", x)
    for s in reversed(STAGES):
        weight = graph.constant(getattr(frozen, f"upsample{s}"))
        x = graph.add("ConvTranspose", [x, weight], kernel_shape=[8, 8], strides=[2, 2], pads=[3, 3, 3, 3])
        x = graph.cut(x, maps[s - 1])
        if frozen.addition:
            x = graph.add("Add", [x, one_by_one(f"lateral{s}", maps[s - 1])])
    return one_by_one("classifier", x)


_WRITERS: dict[type[Frozen], Callable[[_Graph, Any], str]] = {
    FrozenSegNet: _segnet,
    FrozenSegNetBasic: _segnet_basic,
    FrozenEncoderAddition: _segnet_basic,
    FrozenSingleChannelDecoder: _single_channel_decoder,
    FrozenBilinearInterpolation: _bilinear_interpolation,
    FrozenFCNBasic: _fcn_basic,
}


class _Graph:
    """Nodes and constants in the order in which they are added."""

    def __init__(self, select: bool) -> None:
        self.select = select
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add_all(self, op: str, inputs: list[str], outputs: int, **attributes: Any) -> list[str]:
        import onnx

        names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(onnx.helper.make_node(op, inputs, names, **attributes))
        return names

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        return self.add_all(op, inputs, 1, **attributes)[0]

    def constant(self, values: Any) -> str:
        """A tensor, or integers."""
        import onnx

        array = values.detach().contiguous().numpy() if isinstance(values, Tensor) else np.array(values, np.int64)
        name = f"constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(array, name))
        return name

    def prepared(self, x: str, form: nn.Module) -> str:
        """The input form of a model that was converted; nothing for others."""
        if not isinstance(form, PrepareInput):
            return x
        x = self.add("Gather", [x, self.constant(form.order)], axis=1)
        return self.add(
            "Add", [self.add("Mul", [x, self.constant(form.scale.float())]), self.constant(form.shift.float())]
        )

    def conv(self, x: str, weight: Tensor, bias: Tensor, groups: int = 1) -> str:
        k = weight.shape[-1]
        inputs = [x, self.constant(weight), self.constant(bias)]
        return self.add("Conv", inputs, pads=4 * [k // 2], kernel_shape=[k, k], group=groups)

    def relu(self, x: str) -> str:
        return self.add("Relu", [x])

    def pool(self, x: str) -> tuple[str, list[str]]:
        """The pooled map of a rectified one, and what :meth:`unpool` needs: the places, then the size."""
        if not self.select:
            # ONNX counts indices over [N, C, H, W] where torch counts them in each plane; MaxUnpool reads them as
            # MaxPool wrote them, given the size of the pooled map.
            size = self.add("Shape", [x])
            x, indices = self.add_all("MaxPool", [x], 2, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
            return x, [indices, size]
        size = self.add("Shape", [x], start=2)
        # An odd side gets a row or column of zeros, which a rectified map's first maximum is never in.
        odd = self.add("Mod", [size, self.constant([2, 2])])
        x = self.add("Pad", [x, self.add("Concat", [self.constant([0] * 6), odd], axis=0)])
        pixels = self.add_all("Split", [self.add("SpaceToDepth", [x], blocksize=2)], 4, axis=1)
        pooled = self.add("Max", pixels)
        places, taken = [], ""
        for pixel in pixels[:3]:
            place = self.add("Equal", [pixel, pooled])
            if taken:
                place = self.add("And", [place, self.add("Not", [taken])])
            taken = self.add("Or", [taken, place]) if taken else place
            places.append(place)
        return pooled, [*places, self.add("Not", [taken]), size]

    def unpool(self, x: str, places: list[str]) -> str:
        if not self.select:
            # ONNX Runtime refuses a size below the one that the attributes give. With these pads that is the odd one.
            return self.add("MaxUnpool", [x, *places], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1])
        *masks, size = places
        zero = self.constant(torch.zeros(()))
        pixels = [self.add("Where", [mask, x, zero]) for mask in masks]
        x = self.add("DepthToSpace", [self.add("Concat", pixels, axis=1)], blocksize=2, mode="DCR")
        return self._slice(x, size)

    def cut(self, x: str, map: str) -> str:
        """``x`` without what goes beyond the height and width of ``map``."""
        return self._slice(x, self.add("Shape", [map], start=2))

    def _slice(self, x: str, size: str) -> str:
        return self.add("Slice", [x, self.constant([0, 0]), size, self.constant([2, 3])])


def exported_program(model: nn.Module) -> bytes:
    """The inference of a model as the content of a ``.pt2`` file, for any number of images of any size above the least
    that it takes: H, W >= 33 for SegNet, >= 17 for the others.

    The program has the kernels of this package as operators, so it is loaded after ``import segnet_ext``:
    ``torch.export.load(file).module()`` maps float32 images [N, C, H, W] to logits [N, K, H, W]. The model is
    frozen first.

    Raises:
        TypeError: ``model`` is not one that :func:`segnet_ext.freeze` takes.
        ValueError: a BatchNorm has no running statistics.
    """
    frozen = _frozen("exported_program", model)
    # AUTO, not Dim("h", min=...): torch guards strides with inequalities it cannot prove for every H and W.
    sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    example = torch.zeros(2, frozen.in_channels, 45, 61)
    with torch.no_grad():
        program = torch.export.export(frozen, (example,), dynamic_shapes={"x": sizes})
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()
