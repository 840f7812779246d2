"""Checkpoint files: a model's weights with what is needed to rebuild and use it.

A file is a ``torch.save`` of plain dicts, lists, numbers, strings and tensors, read with ``weights_only=True``, so
reading one runs no code from it. A file that ends in ``.safetensors`` holds the same, without the training state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segnet_ext import models
from segnet_ext._files import write_atomically
from segnet_ext._weights import read_weights
from segnet_ext.classes import ClassSet
from segnet_ext.errors import InputError, require
from segnet_ext.input_form import InputForm
from segnet_ext.models.stage import StagedModel

FORMAT = "segnet_ext.checkpoint"
VERSION = 1


@dataclass(frozen=True)
class ModelType:
    """A model that the command line knows by name."""

    name: str
    factory: Callable[..., StagedModel]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    minimum_size: int = 16
    # A twentieth of the authors' for SegNet-Basic: at batches of 4, larger steps make val mIoU fall again after the
    # first epoch.
    default_lr: float = 0.005

    def build(self, num_classes: int) -> StagedModel:
        return self.factory(num_classes, **self.arguments)


MODEL_TYPES = {
    model.name: model
    for model in (
        ModelType("segnet-basic", models.SegNetBasic),
        ModelType("segnet", models.SegNet, minimum_size=32, default_lr=0.02),
        # Bayesian SegNet: Kendall, Badrinarayanan, Cipolla, BMVC 2017; the authors' bayesian_* prototxt files.
        ModelType("bayesian-segnet-basic", models.SegNetBasic, {"dropout": 0.5}),
        ModelType("bayesian-segnet", models.SegNet, {"dropout": 0.5}, minimum_size=32, default_lr=0.02),
        ModelType("segnet-extra-conv", models.SegNet, {"extra_conv": True}, minimum_size=32, default_lr=0.02),
        # The variants of Table 1 of the SegNet paper.
        ModelType("bilinear-interpolation", models.BilinearInterpolation),
        ModelType("segnet-basic-encoder-addition", models.SegNetBasicEncoderAddition),
        ModelType("segnet-basic-single-channel-decoder", models.SegNetBasicSingleChannelDecoder),
        ModelType("fcn-basic", models.FCNBasic),
        ModelType("fcn-basic-no-addition", models.FCNBasic, {"addition": False}),
        ModelType("fcn-basic-no-dim-reduction", models.FCNBasic, {"dim_reduction": False}),
        ModelType(
            "fcn-basic-no-addition-no-dim-reduction", models.FCNBasic, {"addition": False, "dim_reduction": False}
        ),
        # The networks of its Tables 3 and 6. Where fc6 works at 1/32, a single 32x32 image is no batch for a BatchNorm.
        ModelType("fcn", models.FCN, minimum_size=33, default_lr=0.02),
        ModelType("fcn-learnt-deconv", models.FCN, {"learnt_deconv": True}, minimum_size=33, default_lr=0.02),
        ModelType("deeplab-largefov", models.DeepLabLargeFOV, minimum_size=32, default_lr=0.02),
        ModelType("deconvnet", models.DeconvNet, minimum_size=33, default_lr=0.02),
    )
}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        model: a name in ``MODEL_TYPES``.
        classes: names and colours; their number is the model's ``num_classes``.
        size: (height, width) that the model was trained at.
        weights: the model's ``state_dict``.
        input: what the model makes of its images before all else, for weights that were converted from others; or None.
        training: what ``segnet-ext train --resume`` needs; None in a file that only holds a model.
    """

    model: str
    classes: ClassSet
    size: tuple[int, int]
    weights: dict[str, torch.Tensor]
    training: dict[str, Any] | None = None
    input: InputForm | None = None

    def build_model(self) -> nn.Module:
        """A new model with these weights, in eval mode."""
        with torch.device("meta"):  # no time is spent on weights to be replaced
            model = MODEL_TYPES[self.model].build(len(self.classes))
        model.to_empty(device="cpu").load_state_dict(self.weights)
        if self.input is not None:
            model.input_form = self.input.module()
        return model.eval()

    def check_weights(self) -> None:
        """Raises ValueError, naming the tensor, if the weights are not those of the model named."""
        with torch.device("meta"):
            model = MODEL_TYPES[self.model].build(len(self.classes))
        expected = {key: list(value.shape) for key, value in model.state_dict().items()}
        given = {key: list(value.shape) for key, value in self.weights.items()}
        for key in sorted(expected.keys() | given.keys()):
            if key not in given:
                raise ValueError(f"the tensor {key} of {self.model} is missing")
            if key not in expected:
                raise ValueError(f"{self.model} has no tensor {key}")
            if expected[key] != given[key]:
                raise ValueError(f"the tensor {key} must have the shape {expected[key]}, got {given[key]}")


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes the file whole or not at all.

    Raises:
        InputError: the file cannot be written; one that was there before is as it was.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "model": checkpoint.model,
        "class_names": list(checkpoint.classes.names),
        "class_colors": [list(color) for color in checkpoint.classes.colors],
        "size": list(checkpoint.size),
        "input": None if checkpoint.input is None else {k: list(v) for k, v in vars(checkpoint.input).items()},
    }
    weights = {key: value.detach().cpu() for key, value in checkpoint.weights.items()}
    if path.suffix == ".safetensors":
        require(f"writing {path.name}", "safetensors")
        from safetensors.torch import save

        content = save({key: value.contiguous() for key, value in weights.items()}, {FORMAT: json.dumps(header)})
        write_atomically(path, lambda file: file.write(content))
    else:
        content_dict = header | {"weights": weights, "training": checkpoint.training}
        write_atomically(path, lambda file: torch.save(content_dict, file))


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint and checks that its weights fit its model.

    Raises:
        InputError: the file is missing, cut short, of another program or of a newer version.
    """
    if not path.is_file():
        raise InputError(f"the checkpoint {path} {'is not a file' if path.exists() else 'does not exist'}")
    content = _read(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a checkpoint of segnet-ext")
    if content.get("version") != VERSION:
        raise InputError(
            f"{path} has the checkpoint version {content.get('version')}; this segnet-ext reads version {VERSION}"
        )
    try:
        checkpoint = _parse(content)
        checkpoint.check_weights()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"{path} is not a valid checkpoint: {reason}") from error
    return checkpoint


def _parse(content: dict[str, Any]) -> Checkpoint:
    if content["model"] not in MODEL_TYPES:
        raise ValueError(f"the model must be one of {', '.join(MODEL_TYPES)}, got {content['model']!r}")
    height, width = content["size"]
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise ValueError(f"the size must be two positive integers, got {content['size']!r}")
    classes = ClassSet(
        names=tuple(str(name) for name in content["class_names"]),
        colors=tuple((int(red), int(green), int(blue)) for red, green, blue in content["class_colors"]),
    )
    weights = content["weights"]
    if not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError("the weights must be tensors")
    form = content.get("input")
    if form is not None:
        if MODEL_TYPES[content["model"]].factory not in (models.SegNet, models.SegNetBasic):
            raise ValueError(f"the model {content['model']} takes no other input form")
        form = InputForm(
            tuple(int(k) for k in form["order"]),
            tuple(float(value) for value in form["scale"]),
            tuple(float(value) for value in form["shift"]),
        )
        if len(form.order) != 3:
            raise ValueError(f"the input form must have 3 channels, got {len(form.order)}")
    return Checkpoint(content["model"], classes, (height, width), weights, content.get("training"), form)


def _read(path: Path) -> Any:
    try:
        content, texts = read_weights(path)
        if path.suffix == ".safetensors":
            header = json.loads(texts.get(FORMAT, "null"))
            return header | {"weights": content} if isinstance(header, dict) else None
    except (OSError, ValueError) as error:
        # torch's own text runs over many lines and tells how to load the file unsafely.
        raise InputError(f"{path} is cut short or not a checkpoint of segnet-ext") from error
    return content
