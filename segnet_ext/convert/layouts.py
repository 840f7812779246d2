"""Which layer of ours each layer of another SegNet is.

A layout lists convolutions and the BatchNorms behind them in the order in which the network runs them, by the names
that its files have; :func:`our_layers` lists ours in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

from segnet_ext.models.segnet import DECODER, ENCODER
from segnet_ext.models.segnet_basic import STAGES

# (convolution, BatchNorm or None), as they run; the last one is the classifier.
Layers = list[tuple[str, str | None]]


def our_layers(model: str) -> Layers:
    """Prefixes of our ``state_dict`` keys for the models segnet, segnet-extra-conv and segnet-basic."""
    layers: Layers = []
    if model == "segnet-basic":
        for side, stages in (("encoder", STAGES), ("decoder", tuple(reversed(STAGES)))):
            layers += [(f"{side}.stage{s}.conv", f"{side}.stage{s}.bn") for s in stages]
        return [*layers, ("classifier", None)]
    for s, widths in ENCODER.items():
        layers += [(f"encoder.stage{s}.conv{i}", f"encoder.stage{s}.bn{i}") for i in range(1, len(widths) + 1)]
    for s in DECODER:
        last = 2 if s == 1 and model == "segnet" else 1
        for i in range(len(ENCODER[s]), last - 1, -1):
            layers.append((f"decoder.stage{s}.conv{i}", f"decoder.stage{s}.bn{i}"))
    return [*layers, ("classifier", None)]


def caffe_layers(model: str, classifier: str) -> Layers:
    """The authors' layer names: conv1_1, conv1_1_bn ... conv1_2_D; or conv1, conv1_bn ... conv_decode1."""
    if model == "segnet-basic":
        names = [f"conv{s}" for s in STAGES] + [f"conv_decode{s}" for s in reversed(STAGES)]
    else:
        names = [f"conv{s}_{i}" for s, widths in ENCODER.items() for i in range(1, len(widths) + 1)]
        names += [f"conv{s}_{i}_D" for s in DECODER for i in range(len(ENCODER[s]), 0 if s > 1 else 1, -1)]
    return [*((name, f"{name}_bn") for name in names), (classifier, None)]


# The classifier's names: SegNet's; and SegNet-Basic's in the authors' two generations of files.
CAFFE_CLASSIFIERS = {"segnet": ("conv1_1_D",), "segnet-basic": ("conv_classifier", "dense_softmax_inner_prod")}


@dataclass(frozen=True)
class TorchLayout:
    """The keys of a PyTorch SegNet.

    Attributes:
        sign: a key that only this layout has.
        model: which of our models has its layers.
        layers: prefixes of its keys.
        unused: beginnings of keys of layers that it has and does not run.
        note: what is different in our model, for the user; or "".
    """

    name: str
    sign: str
    model: str
    layers: Layers
    unused: tuple[str, ...] = ()
    note: str = ""


def _cbr_unit() -> Layers:
    names = [f"down{s}.conv{i}" for s, widths in ENCODER.items() for i in range(1, len(widths) + 1)]
    names += [f"up{s}.conv{i}" for s in DECODER for i in range(1, len(ENCODER[s]) + 1)]
    return [(f"{name}.cbr_unit.0", f"{name}.cbr_unit.1") for name in names]


def _sequential() -> Layers:
    layers: Layers = []
    for s, widths in ENCODER.items():
        layers += [(f"stage{s}_encoder.{3 * i}", f"stage{s}_encoder.{3 * i + 1}") for i in range(len(widths))]
    for s in DECODER:
        own = f"stage{6 - s}_decoder"  # numbered as it runs
        layers += [(f"{own}.{3 * i}", f"{own}.{3 * i + 1}") for i in range(len(ENCODER[s]))]
    return [*layers, ("stage5_decoder.6", None)]


def _conv_en() -> Layers:
    names = [f"En{s}{i}" for s, widths in ENCODER.items() for i in range(1, len(widths) + 1)]
    names += [f"De{s}{i}" for s in DECODER for i in range(len(ENCODER[s]), 0, -1)]
    layers: Layers = [(f"Conv{name}", f"BN{name}") for name in names]
    return [*layers[:-1], ("ConvDe11", None)]


TORCH_LAYOUTS = (
    TorchLayout(
        "down1.conv1.cbr_unit",
        "down1.conv1.cbr_unit.0.weight",
        "segnet",
        _cbr_unit(),
        note="The original ends with BatchNorm, which is now part of the classifier, and ReLU, which is left out: "
        "where it gives 0, the scores are below 0.",
    ),
    TorchLayout(
        "stage1_encoder",
        "stage1_encoder.0.weight",
        "segnet-extra-conv",
        _sequential(),
    ),
    TorchLayout(
        "ConvEn11",
        "ConvEn11.weight",
        "segnet",
        _conv_en(),
        unused=("BNDe11.",),
        note="The original ends with softmax, which is left out: the scores are its logits.",
    ),
)
