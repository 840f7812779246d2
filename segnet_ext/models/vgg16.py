"""Encoders from torchvision's VGG16 checkpoints, all of it or nothing."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._weights import read_weights
from ..errors import InputError

CONVS = (2, 2, 3, 3, 3)  # of each stage; a pool follows each stage
BN_ENTRIES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def vgg16_keys(batch_norm: bool) -> dict[str, str]:
    """torchvision's keys of ``vgg16`` or ``vgg16_bn`` to keys of our encoder.

    torchvision numbers the layers of ``features`` through: conv, (BatchNorm,) ReLU for each convolution, then a pool.

    >>> vgg16_keys(batch_norm=False)["features.28.weight"]
    'stage5.conv3.weight'
    """
    keys = {}
    layer = 0
    for stage, convs in enumerate(CONVS, start=1):
        for i in range(1, convs + 1):
            for entry in ("weight", "bias"):
                keys[f"features.{layer}.{entry}"] = f"stage{stage}.conv{i}.{entry}"
            if batch_norm:
                for entry in BN_ENTRIES:
                    keys[f"features.{layer + 1}.{entry}"] = f"stage{stage}.bn{i}.{entry}"
            layer += 3 if batch_norm else 2
        layer += 1
    return keys


class VGG16Encoder:
    """Gives a model :meth:`load_vgg16`: its ``encoder`` is VGG16's thirteen convolutions, its input ``in_channels``."""

    encoder: nn.Module
    in_channels: int

    def load_vgg16(self, source: str | os.PathLike[str] | Mapping[str, Tensor]) -> None:
        """Start the encoder from ImageNet weights: torchvision's ``vgg16`` or ``vgg16_bn``.

        The thirteen convolutions are copied, and with ``vgg16_bn`` also each BatchNorm's parameters and running
        statistics, in any floating dtype; ``classifier.*`` is ignored. torchvision's weights expect RGB in [0, 1],
        normalised with the ImageNet mean (0.485, 0.456, 0.406) and standard deviation (0.229, 0.224, 0.225).

        Args:
            source: a ``.safetensors`` file, a file of ``torch.save`` (read with ``weights_only=True``: no code in it
                runs), or the state dict itself.

        Raises:
            ValueError: ``in_channels`` is not 3, the file is damaged, or its keys, shapes or dtypes do not fit; every
                key that is wrong is named, and the model is as it was before.
            OSError: the file cannot be opened.
            ImportError: a ``.safetensors`` file where the safetensors package is missing.
        """
        load_vgg16(self.encoder, self.in_channels, source)


def load_vgg16(encoder: nn.Module, in_channels: int, source: str | os.PathLike[str] | Mapping[str, Tensor]) -> None:
    """Copy ``source`` into ``encoder``; see :meth:`VGG16Encoder.load_vgg16` for what is read and raised."""
    if in_channels != 3:
        raise ValueError(f"load_vgg16: in_channels must be 3 for VGG16 weights, the model has {in_channels}")
    if isinstance(source, Mapping):
        name, weights = "the state dict", source
    else:
        name = os.fspath(source)
        weights = _read(Path(source))
    weights = {key: value for key, value in weights.items() if not str(key).startswith("classifier.")}
    targets = encoder.state_dict()
    keys = vgg16_keys(batch_norm=any(str(key).endswith(".running_mean") for key in weights))

    wrong = [f"{key} is not a layer of VGG16's features" for key in weights if key not in keys]
    for key, ours in keys.items():
        if key in weights:
            wrong += _misfit(key, weights[key], targets[ours])
        elif not key.endswith(".num_batches_tracked"):  # torchvision's own older files have none
            wrong.append(f"{key} is missing")
    if wrong:
        raise ValueError(
            f"load_vgg16: {name} must hold torchvision's vgg16 or vgg16_bn; nothing was loaded:\n  "
            + "\n  ".join(wrong)
        )
    with torch.no_grad():
        for key, value in weights.items():
            targets[keys[key]].copy_(value)


def _misfit(key: str, value: Any, target: Tensor) -> list[str]:
    """What is wrong with ``value`` as new content of ``target``: nothing, or one sentence."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
        return [f"{key} must be a dense tensor, got {getattr(value, 'layout', type(value).__name__)}"]
    if value.shape != target.shape:
        return [f"{key} must be {list(target.shape)}, got {list(value.shape)}"]
    if value.is_floating_point() != target.is_floating_point() or value.is_complex():
        kind = "floating point" if target.is_floating_point() else "an integer"
        return [f"{key} must be {kind}, got {value.dtype}"]
    return []


def _read(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a .safetensors or torch.save file."""
    try:
        content, _ = read_weights(path)
    except InputError as error:
        raise ImportError(f"load_vgg16: {error}") from error
    except ValueError as error:
        raise ValueError(f"load_vgg16: {path} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"load_vgg16: {path} must hold a state dict, got {type(content).__name__}")
    return content
