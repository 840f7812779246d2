"""What a training run is made of: the options of ``segnet-ext train`` that a resumed run must have the same."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from segnet_ext.cli import _options
from segnet_ext.errors import InputError
from segnet_ext.optim import OPTIMIZERS, SCHEDULES


@dataclass(frozen=True)
class Settings:
    """What makes one training run different from another. As plain data, under the options' names."""

    dataset: str
    model: str
    size: str
    epochs: int
    processes: int
    batch_size: int
    accumulate: int
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    poly_power: float
    step_epochs: int
    step_factor: float
    warmup: int
    class_weights: str
    loss_norm: str
    flip: str
    scale: str
    crop: str
    color: float
    ema: float
    seed: int
    amp: str
    vgg16: str


MODELS = (
    "segnet-basic",
    "segnet",
    "bayesian-segnet-basic",
    "bayesian-segnet",
    "segnet-extra-conv",
    "bilinear-interpolation",
    "segnet-basic-encoder-addition",
    "segnet-basic-single-channel-decoder",
    "fcn-basic",
    "fcn-basic-no-addition",
    "fcn-basic-no-dim-reduction",
    "fcn-basic-no-addition-no-dim-reduction",
    "fcn",
    "fcn-learnt-deconv",
    "deeplab-largefov",
    "deconvnet",
)

_DEFAULTS: dict[str, Any] = {
    "size": (360, 480),
    "epochs": 50,
    "batch_size": 4,
    "accumulate": 1,
    "optimizer": "sgd",
    "momentum": 0.9,
    "schedule": "constant",
    "poly_power": 0.9,
    "step_epochs": 20,
    "step_factor": 0.1,
    "warmup": 0,
    "class_weights": "median",
    "loss_norm": "pixels",
    "flip": "on",
    "scale": (1.0, 1.0),
    "crop": None,
    "color": 0.0,
    "ema": 0.0,
    "seed": 0,
    "amp": "off",
    "vgg16": None,
}
_ADAMW_LR = 1e-3
_WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 1e-2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options. None is the value of each that is not given."""
    add = parser.add_argument
    add("--model", choices=MODELS, metavar="NAME", help=f"required, but for --resume: {', '.join(MODELS)}")
    add(
        "--size",
        type=_options.size,
        metavar="HxW",
        help="height x width in pixels that images (bilinear) and labels (nearest) are resized to (default: 360x480)",
    )
    add(
        "--epochs",
        type=_options.count,
        metavar="N",
        help="epochs in all, those before --resume too (default: 50); with --schedule poly a run keeps its number",
    )
    add("--batch-size", type=_options.count, metavar="B", help="images in a batch, for each process (default: 4)")
    add(
        "--accumulate",
        type=_options.count,
        metavar="K",
        help="batches whose gradients make one step: as one batch of K times B, but for BatchNorm (default: 1)",
    )
    add("--optimizer", choices=tuple(OPTIMIZERS), help="(default: sgd, as the paper)")
    add(
        "--lr",
        type=_options.positive,
        metavar="LR",
        help="learning rate (default: with sgd 0.02, and 0.005 for the Basic models, with adamw 0.001)",
    )
    add("--momentum", type=_options.fraction, metavar="M", help="of sgd; the first beta of adamw (default: 0.9)")
    add(
        "--weight-decay",
        type=_options.not_negative,
        metavar="D",
        help="weight decay; sgd spares biases, adamw BatchNorm too (default: 5e-4, with adamw 0.01)",
    )
    add(
        "--schedule",
        choices=SCHEDULES,
        help="learning rate over the run: constant, LR (1 - done)^P, or times F every E epochs (default: constant)",
    )
    add("--poly-power", type=_options.positive, metavar="P", help="of --schedule poly (default: 0.9)")
    add("--step-epochs", type=_options.count, metavar="E", help="of --schedule step (default: 20)")
    add("--step-factor", type=_options.positive, metavar="F", help="of --schedule step (default: 0.1)")
    add(
        "--warmup",
        type=_options.count_or_zero,
        metavar="E",
        help="epochs in which the learning rate first rises from near 0 (default: 0)",
    )
    add(
        "--class-weights",
        choices=("median", "sqrt-median", "authors", "none"),
        help="median: median frequency balancing, computed from the training labels; sqrt-median: the square roots of "
        "those, between them and none; authors: the eleven that SegNet's authors publish for CamVid; none: all 1 "
        "(default: median)",
    )
    add(
        "--loss-norm",
        choices=("pixels", "weights"),
        help="the loss is divided by the number of pixels, as by the authors, or by the sum of their weights, as "
        "torch's CrossEntropyLoss does (default: pixels)",
    )
    add("--flip", choices=("on", "off"), help="mirror half of the training images (default: on)")
    add(
        "--scale",
        type=_options.scales,
        metavar="MIN:MAX",
        help="scale each training image by a random factor between these, before the crop (default: 1:1)",
    )
    add(
        "--crop",
        type=_options.size,
        metavar="HxW",
        help="train on random parts of this size, padded with void where the image is smaller (default: --size)",
    )
    add(
        "--color",
        type=_options.fraction,
        metavar="C",
        help="multiply brightness, contrast and saturation by random factors from 1-C to 1+C (default: 0)",
    )
    add(
        "--ema",
        type=_options.fraction,
        metavar="D",
        help="evaluate and keep a running average of the weights that holds to D of itself in each step, such as "
        "0.999 (default: 0, none)",
    )
    add(
        "--vgg16",
        type=Path,
        metavar="FILE",
        help="start the encoder from torchvision's vgg16 or vgg16_bn (.pth or .safetensors): segnet and what the paper "
        "compares it with, not the Basic ones",
    )
    add("--amp", choices=("off", "bf16", "fp16"), help="train under autocast; fp16 on CUDA alone (default: off)")
    add("--seed", type=_options.seed, metavar="S", help="seed of weights, order and augmentation (default: 0)")


def settle(options: argparse.Namespace, saved: dict[str, Any] | None, processes: int = 1) -> Settings:
    """The run's settings: those given, else those saved, else the defaults. ``processes`` is their number.

    Raises:
        InputError: a given one differs from the saved one, which only ``--epochs`` may, and not that under a schedule
            that depends on it.
    """
    if saved is not None and saved["processes"] != processes:
        raise InputError(
            f"the run to resume is of {saved['processes']} processes, not {processes}: start it again by torchrun "
            f"--nproc-per-node {saved['processes']}"
        )
    given: dict[str, Any] = {field.name: getattr(options, field.name, None) for field in fields(Settings)}
    given["processes"] = processes
    given = {name: value for name, value in given.items() if value is not None}
    if saved is None:
        given = _with_defaults(given)
        if "dataset" not in given:
            from segnet_ext.data import detect_dataset

            given["dataset"] = detect_dataset(options.data)
    for name, as_text in (("size", _options.size_text), ("crop", _options.size_text), ("scale", _scales_text)):
        if name in given:
            given[name] = as_text(given[name]) if given[name] is not None else ""
    if "vgg16" in given:
        given["vgg16"] = _digest(given["vgg16"])
    if saved is None:
        return Settings(**given)
    for name, value in given.items():
        if value == saved[name] or (name == "epochs" and saved["schedule"] != "poly"):
            continue
        flag = "--" + name.replace("_", "-")
        was = "another file" if name == "vgg16" else saved[name]
        now = options.vgg16 if name == "vgg16" else value
        raise InputError(
            f"{flag} {now} differs from the run to resume, which has {'none' if was == '' else was}: leave {flag} out, "
            "or start afresh in another --out"
        )
    return Settings(**(saved | {"epochs": given.get("epochs", saved["epochs"])}))


def _with_defaults(given: dict[str, Any]) -> dict[str, Any]:
    from segnet_ext.checkpoint import MODEL_TYPES

    if "model" not in given:
        raise InputError(f"--model is required: {', '.join(MODELS)}")
    if "vgg16" in given and not hasattr(MODEL_TYPES[given["model"]].factory, "load_vgg16"):
        able = ", ".join(name for name, kind in MODEL_TYPES.items() if hasattr(kind.factory, "load_vgg16"))
        raise InputError(f"--vgg16 is for --model {able}, got --model {given['model']}")
    optimizer = given.get("optimizer", _DEFAULTS["optimizer"])
    lr = MODEL_TYPES[given["model"]].default_lr if optimizer == "sgd" else _ADAMW_LR
    return _DEFAULTS | {"lr": lr, "weight_decay": _WEIGHT_DECAY[optimizer]} | given


def _scales_text(scales: tuple[float, float]) -> str:
    return f"{scales[0]!r}:{scales[1]!r}"


def _digest(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"--vgg16 {path} cannot be read: {error.strerror}") from error
