"""Trained weights that come with the package: checkpoints in half precision, each beside its model card.

``docs/make_pretrained.py`` makes both from a training run.
"""

from __future__ import annotations

from pathlib import Path

from segnet_ext.checkpoint import Checkpoint, read_checkpoint

FOLDER = Path(__file__).resolve().parent

# The model's name on the command line, and that of the weights: FOLDER/MODEL-WEIGHTS.pt and .md.
PRETRAINED = (("segnet-basic", "camvid"),)


def pretrained_files() -> dict[str, Path]:
    """The checkpoints by the names that the command line gives them, such as ``segnet-basic-camvid``."""
    return {"-".join(pair): FOLDER / f"{'-'.join(pair)}.pt" for pair in PRETRAINED}


def read_pretrained(user: str, model: str, name: str) -> Checkpoint:
    """The weights ``name`` of a model in ``MODEL_TYPES``.

    Args:
        user: what asks for them, as the message names it.
        model, name: one of ``PRETRAINED``.

    Raises:
        ValueError: there are none of that name; the message lists those there are.
    """
    if (model, name) not in PRETRAINED:
        names = [known for of, known in PRETRAINED if of == model]
        raise ValueError(f"{user}: name must be {' or '.join(map(repr, names))}, got {name!r}")
    return read_checkpoint(pretrained_files()[f"{model}-{name}"])
