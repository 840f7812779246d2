"""Weights of other SegNets made ours: the authors' Caffe models and the best-known PyTorch ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from segnet_ext._weights import read_weights
from segnet_ext.checkpoint import MODEL_TYPES, Checkpoint
from segnet_ext.classes import CAMVID, ClassSet
from segnet_ext.convert.caffemodel import Blob, Layer, read_caffemodel
from segnet_ext.convert.layouts import CAFFE_CLASSIFIERS, TORCH_LAYOUTS, Layers, TorchLayout, caffe_layers, our_layers
from segnet_ext.data.images import IMAGENET_MEAN, IMAGENET_STD
from segnet_ext.errors import InputError
from segnet_ext.input_form import InputForm

__all__ = ["Converted", "SourceInput", "convert_caffemodel", "convert_state_dict", "read_state_dict"]

# What is added to a variance: by the authors' BN layer, and by ours.
_CAFFE_EPS, _EPS = 1e-9, 1e-5


@dataclass(frozen=True)
class SourceInput:
    """What the original network sees of an RGB image whose values are 0 to ``range``.

    ``own[c] = (value[c] - mean[c]) / std[c]``, the channels in the order ``channels``. The authors' networks see BGR, 0
    to 255, nothing taken off; most in PyTorch see RGB, 0 to 1, normalised with ImageNet's mean and standard deviation.
    """

    channels: str = "rgb"
    range: float = 1.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def form(self) -> InputForm:
        """This of images that are normalised as ours."""
        order = tuple("rgb".index(channel) for channel in self.channels)
        scale = [self.range * IMAGENET_STD[k] / std for k, std in zip(order, self.std, strict=True)]
        shift = [
            (self.range * IMAGENET_MEAN[k] - mean) / std
            for k, mean, std in zip(order, self.mean, self.std, strict=True)
        ]
        return InputForm(order, tuple(scale), tuple(shift))

    def __str__(self) -> str:
        text = f"{self.channels.upper()}, 0 to {self.range:g}"
        if self.mean != (0, 0, 0) or self.std != (1, 1, 1):
            text += f", minus {_listed(self.mean)}, divided by {_listed(self.std)}"
        return text


CAFFE_INPUT = SourceInput("bgr", 255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Converted:
    """Our weights, and what goes with them into a checkpoint. ``notes`` are sentences for the user."""

    model: str
    num_classes: int
    weights: dict[str, Tensor]
    input: InputForm | None
    notes: list[str] = field(default_factory=list)

    def checkpoint(self, classes: ClassSet, size: tuple[int, int]) -> Checkpoint:
        return Checkpoint(self.model, classes, size, self.weights, input=self.input)

    def with_statistics(self, images: Iterable[Tensor]) -> Converted:
        """BatchNorm's statistics computed over batches of images [N, 3, H, W], normalised as ours.

        For weights as they are in training, which come without: each BatchNorm normalises by the batch's own while the
        images run through, as in the authors' ``compute_bn_statistics.py``.
        """
        model = MODEL_TYPES[self.model.removeprefix("bayesian-")].build(self.num_classes)
        model.load_state_dict(self.weights)
        if self.input is not None:
            model.input_form = self.input.module()
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.eps = _CAFFE_EPS
        with torch.no_grad():
            update_bn(images, model)
            for norm in norms:
                # y = weight * (x - mean) / sqrt(var + eps), of the same value with our eps.
                assert norm.running_var is not None
                var = norm.running_var.double()
                norm.weight.mul_(((var + _EPS) / (var + _CAFFE_EPS)).sqrt())
        return replace(self, weights=dict(model.state_dict()))


# ---------------------------------------------------------------------------------------------------------------- Caffe


def convert_caffemodel(path: Path, batch_norm: str | None = None, source: SourceInput = CAFFE_INPUT) -> Converted:
    """The authors' SegNet, SegNet-Basic or the Bayesian ones from a .caffemodel.

    Args:
        path: the file.
        batch_norm: which form the BN layers' scale and shift have: ``inference``, the statistics folded in;
            ``training``, as the solver writes them: the result then needs :meth:`Converted.with_statistics`; None: what
            the file says.
        source: what the network was trained to see.

    Raises:
        InputError: the file cannot be used; every layer that is wrong is named.
    """
    found = read_caffemodel(path)
    layers: dict[str, Layer] = {}
    for layer in found:
        if layer.blobs and layers.setdefault(layer.name, layer) is not layer:
            raise InputError(f"{path} has two layers {layer.name}")
    model, classifier = _caffe_model(path, layers)
    theirs = caffe_layers(model, classifier)
    num_classes = layers[classifier].blobs[-1].values.size
    targets = _targets(model, num_classes, path)

    form = _batch_norm_form(path, layers, theirs, batch_norm)
    weights: dict[str, Tensor] = {}
    wrong = _unknown(layers, {name for pair in theirs for name in pair})
    for (conv, bn), (our_conv, our_bn) in zip(theirs, our_layers(model), strict=True):
        for blobs, prefix in ((_blobs(layers, conv), our_conv), (_blobs(layers, bn), our_bn)):
            if prefix is None or (prefix == our_bn and form == "absorbed"):
                continue
            entries = (f"{prefix}.weight", f"{prefix}.bias")
            if blobs is None or len(blobs) != 2:
                name = conv if prefix == our_conv else bn
                wrong.append(f"{name} must have 2 blobs, got {'none' if blobs is None else len(blobs)}")
                continue
            for entry, blob in zip(entries, blobs, strict=True):
                if not _fits(blob, targets[entry].shape):
                    wrong.append(f"{entry} must be {list(targets[entry].shape)}, got {list(blob.shape)}")
                else:
                    weights[entry] = torch.from_numpy(blob.values).view(targets[entry].shape)
    _refuse(path, f"the authors' {model}", wrong)

    notes = [_CAFFE_NOTES[form]]
    for key, target in targets.items():
        if key not in weights:  # of BatchNorm, which does nothing until it gets statistics or is trained
            value = 1 - _EPS if key.endswith("running_var") else 1 if key.endswith(".weight") else 0
            weights[key] = torch.full(target.shape, value, dtype=target.dtype)
    dropout = any(layer.dropout and layer.name == "encdrop3" for layer in found)
    return _with_input(Converted(f"bayesian-{model}" if dropout else model, num_classes, weights, None, notes), source)


_CAFFE_NOTES = {
    "inference": "BatchNorm: scale and shift with the statistics folded in; they are the weight and bias, the mean is "
    "0 and the variance 1.",
    "absorbed": "BatchNorm: absorbed by the convolutions in the file; ours does nothing.",
    "training": "BatchNorm: scale and shift as in training; the statistics are computed from images.",
}


def _caffe_model(path: Path, layers: Mapping[str, Layer]) -> tuple[str, str]:
    """Which model a file is of, and the name of its classifier."""
    for model, names in CAFFE_CLASSIFIERS.items():
        for name in names:
            if name in layers:
                return model, name
    names = tuple(name for names in CAFFE_CLASSIFIERS.values() for name in names)
    raise InputError(
        f"{path} is not one of the authors' models: it has no classifier, a layer {' or '.join(names)}, "
        f"among its {len(layers)} layers with blobs{_some(layers)}"
    )


def _batch_norm_form(path: Path, layers: Mapping[str, Layer], theirs: Layers, given: str | None) -> str:
    """The form that the user gives or the file itself tells.

    ``compute_bn_statistics.py`` saves its result from a net whose BN layers have three outputs, two of them for mean
    and variance; ``BN-absorber.py`` sets all scales and shifts to 0.
    """
    norms = [layers[bn] for _, bn in theirs if bn is not None and bn in layers]
    if all(not blob.values.any() for norm in norms for blob in norm.blobs):
        if given == "training":
            raise InputError(f"{path} has no scale and shift of BatchNorm, which --batch-norm training needs")
        return "absorbed"  # or there is none
    if given is not None:
        return given
    if all(norm.inference or norm.tops == 3 for norm in norms):
        return "inference"
    raise InputError(
        f"{path} does not tell whether the statistics of BatchNorm are folded into its scale and shift: say "
        "--batch-norm inference for the result of compute_bn_statistics.py or a model to test with, "
        "--batch-norm training for a snapshot of the solver"
    )


def _blobs(layers: Mapping[str, Layer], name: str | None) -> tuple[Blob, ...] | None:
    return layers[name].blobs if name is not None and name in layers else None


def _fits(blob: Blob, shape: torch.Size) -> bool:
    """Whether a blob has the shape, up to leading ones (a bias is 1 x 1 x 1 x K or K, BN's blobs 1 x C x 1 x 1)."""
    dims = [dim for dim in blob.shape if dim != 1]
    return blob.values.size == math.prod(shape) and dims == [dim for dim in shape if dim != 1]


# -------------------------------------------------------------------------------------------------------------- PyTorch


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors or torch.save file, alone or as an entry of a checkpoint. No code in it runs.

    Raises:
        InputError: the file cannot be read or holds none.
    """
    try:
        content, _ = read_weights(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(
            f"{path} is cut short, not a file of weights, or holds objects that only its own program can read "
            "(save the state_dict alone there)"
        ) from error
    for entry in ("state_dict", "model_state", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path} must hold a state dict, got {type(content).__name__}")
    prefix = "module." if all(str(key).startswith("module.") for key in content) else ""  # of nn.DataParallel
    return {str(key).removeprefix(prefix): value for key, value in content.items()}


def convert_state_dict(path: Path, source: SourceInput | None = None) -> Converted:
    """A PyTorch SegNet with one of the layouts of ``layouts.TORCH_LAYOUTS``.

    Args:
        path: a file that :func:`read_state_dict` reads.
        source: what the network was trained to see; None stands for RGB, normalised as ImageNet is.

    Raises:
        InputError: the file cannot be used; every key that is wrong is named.
    """
    given = read_state_dict(path)
    layout = next((layout for layout in TORCH_LAYOUTS if layout.sign in given), None)
    if layout is None:
        signs = ", ".join(layout.sign for layout in TORCH_LAYOUTS)
        raise InputError(f"{path} has none of the known layouts: a key must be one of {signs}{_some(given)}")
    classifier = given.get(f"{layout.layers[-1][0]}.weight")
    if not isinstance(classifier, Tensor) or classifier.dim() != 4 or len(classifier) < 1:
        raise InputError(f"{path}: {layout.layers[-1][0]}.weight must be [K, 64, 3, 3]")
    targets = _targets(layout.model, len(classifier), path)
    weights = _rename(path, layout, given, targets)
    notes = [layout.note] if layout.note else []
    notes.append(
        "The original's pools round down, ours up: at heights and widths that are multiples of 32 they are the same, "
        "at others the results differ at the lower and right edge."
    )
    return _with_input(Converted(layout.model, len(classifier), weights, None, notes), source or SourceInput())


def _rename(
    path: Path, layout: TorchLayout, given: Mapping[str, Any], targets: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The layout's tensors under our keys, checked."""
    weights: dict[str, Tensor] = {}
    used: set[str] = set()
    wrong: list[str] = []

    def take(theirs: str, like: Tensor) -> Tensor:
        used.add(theirs)
        value = given.get(theirs)
        if value is None and theirs.endswith("num_batches_tracked"):  # older files have none
            return torch.zeros(like.shape, dtype=like.dtype)
        if isinstance(value, Tensor) and value.shape == like.shape and value.layout == torch.strided:
            return value.detach().to(like.dtype)
        found = "none" if value is None else list(getattr(value, "shape", [])) or type(value).__name__
        wrong.append(f"{theirs} must be {list(like.shape)}, got {found}")
        return torch.zeros(like.shape, dtype=like.dtype)

    for (conv, bn), (our_conv, our_bn) in zip(layout.layers, our_layers(layout.model), strict=True):
        for entry in ("weight", "bias"):
            weights[f"{our_conv}.{entry}"] = take(f"{conv}.{entry}", targets[f"{our_conv}.{entry}"])
        if our_bn is not None:
            for entry in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                weights[f"{our_bn}.{entry}"] = take(f"{bn}.{entry}", targets[f"{our_bn}.{entry}"])
        elif bn is not None:  # folded into the classifier
            bias = targets[f"{our_conv}.bias"]
            gamma, beta, mean, var = (
                take(f"{bn}.{entry}", bias).double() for entry in ("weight", "bias", "running_mean", "running_var")
            )
            used.add(f"{bn}.num_batches_tracked")
            scale = gamma / (var + _EPS).sqrt()
            weight = weights[f"{our_conv}.weight"].double() * scale.view(-1, 1, 1, 1)
            weights[f"{our_conv}.bias"] = ((weights[f"{our_conv}.bias"].double() - mean) * scale + beta).float()
            weights[f"{our_conv}.weight"] = weight.float()
    wrong += [f"{key} is not a layer of it" for key in given if key not in used and not key.startswith(layout.unused)]
    _refuse(path, f"the SegNet with keys such as {layout.sign}", wrong)
    return weights


# ----------------------------------------------------------------------------------------------------------------- both


def _with_input(converted: Converted, source: SourceInput) -> Converted:
    """Makes the model see images that are normalised as ours.

    Order and scale of the channels go into the first convolution, but for SegNet-Basic, where a nonlinear layer comes
    first. What a shift remains is left to the model's :class:`InputForm`.
    """
    form = source.form()
    first = our_layers(converted.model.removeprefix("bayesian-"))[0][0] + ".weight"
    weights = dict(converted.weights)
    if "basic" not in converted.model:
        weight = torch.empty_like(weights[first])
        shift = [0.0] * len(form.order)
        for c, k in enumerate(form.order):
            weight[:, k] = (weights[first][:, c].double() * form.scale[c]).float()
            shift[k] = form.shift[c] / form.scale[c]
        weights[first] = weight
        form = InputForm((0, 1, 2), (1.0, 1.0, 1.0), tuple(shift))
    nothing = form == InputForm((0, 1, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    return replace(
        converted,
        weights=weights,
        input=None if nothing else form,
        notes=[*converted.notes, f"Input of the original: {source}; ours takes images as it always does."],
    )


def _targets(model: str, num_classes: int, path: Path) -> dict[str, Tensor]:
    """The tensors that our model has, without memory."""
    if not 1 <= num_classes <= 256:
        raise InputError(f"{path}: the number of classes must be 1 to 256, got {num_classes}")
    with torch.device("meta"):
        return MODEL_TYPES[model].build(num_classes).state_dict()


def _unknown(given: Iterable[str], known: set[str | None]) -> list[str]:
    return [f"{name} is not a layer of it" for name in given if name not in known]


def _refuse(path: Path, what: str, wrong: list[str]) -> None:
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise InputError(f"{path} does not hold {what}: {', '.join(wrong[:5])}{more}")


def _some(names: Iterable[str]) -> str:
    listed = [str(name)[:60] for name in names][:3]
    return f"; it has {', '.join(listed)}, …" if listed else ""


def _listed(values: Iterable[float]) -> str:
    return "/".join(f"{value:g}" for value in values)


def class_set(names: tuple[str, ...] | None, num_classes: int) -> ClassSet:
    """CamVid's for eleven classes without names; else these names, or numbers, and the colours of Pascal VOC."""
    if names is None and num_classes == len(CAMVID):
        return CAMVID
    names = names or tuple(f"class {index}" for index in range(num_classes))
    if len(names) != num_classes:
        raise InputError(f"--class-names must be {num_classes}, as many as the file has, got {len(names)}")
    return ClassSet(names, tuple(_voc_color(index) for index in range(num_classes)))


def _voc_color(index: int) -> tuple[int, int, int]:
    color = [0, 0, 0]
    index += 1  # 0 is black, for void
    for bit in range(8):
        for channel in range(3):
            color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return color[0], color[1], color[2]
