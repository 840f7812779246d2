"""Inference: models with BatchNorm folded away, Monte Carlo dropout, and test-time augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .frozen import freeze

__all__ = ["average_over_views", "freeze", "monte_carlo_dropout"]

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@torch.no_grad()
def monte_carlo_dropout(
    model: nn.Module, images: Tensor, samples: int = 40, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """Class probabilities and their uncertainty, from forward passes that each draw new dropout masks.

    Bayesian SegNet (Kendall, Badrinarayanan and Cipolla, BMVC 2017): the mean of the samples' softmax is the
    prediction, their variance the model's uncertainty. ``variance.mean(1)`` is the paper's uncertainty map, averaged
    over the classes. Dropout is active, all else as in ``model.eval()``: BatchNorm uses its running statistics. Samples
    are drawn one after the other, so memory does not grow with their number. No gradient is recorded.

    Args:
        model: maps ``images`` to logits [N, K, H, W] and has dropout, such as ``SegNet(11, dropout=0.5)``. Each module
            is put back in its mode afterwards; other threads must leave the model alone meanwhile.
        images: floating [N, C, H, W].
        samples: forward passes, at least 1. The paper sees no further gain above about 40.
        seed: where given, the masks depend on it alone, and torch's random state is left as it was; None draws from
            torch's generator.

    Returns:
        Mean and variance of the softmax, both [N, K, H, W] in the logits' dtype, at least float32. The variance is the
        squared deviation from the mean over all samples, divided by ``samples``: 0 for one sample.

    Raises:
        ValueError: ``samples`` is below 1, or ``model`` has no dropout with a probability above 0.

    >>> import segnet_ext
    >>> model = segnet_ext.SegNetBasic(num_classes=11, dropout=0.5)
    >>> mean, variance = monte_carlo_dropout(model, torch.rand(1, 3, 45, 60), samples=4, seed=0)
    >>> mean.argmax(1).shape, variance.mean(1).shape
    (torch.Size([1, 45, 60]), torch.Size([1, 45, 60]))
    """
    if samples < 1:
        raise ValueError(f"monte_carlo_dropout: samples must be at least 1, got {samples}")
    if not has_dropout(model):
        raise ValueError(
            "monte_carlo_dropout: model must have dropout with a probability above 0, "
            f"got {type(model).__name__} without"
        )
    with _only_dropout_training(model), _seeded(seed, images.device):
        mean = _probabilities(model(images))
        deviation = torch.zeros_like(mean)
        for count in range(2, samples + 1):  # Welford's update, which does not cancel as a sum of squares would
            sample = _probabilities(model(images))
            delta = sample - mean
            mean += delta / count
            deviation += delta * (sample - mean)
    return mean, deviation / samples


def has_dropout(model: nn.Module) -> bool:
    """Whether a dropout layer of ``model`` has a probability above 0."""
    return any(isinstance(module, _DROPOUT) and module.p > 0 for module in model.modules())


def _probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))


@contextmanager
def _only_dropout_training(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = isinstance(module, _DROPOUT)
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def average_over_views(
    predict: Callable[[Tensor], Tensor], images: Tensor, scales: Sequence[float] = (1.0,), mirror: bool = True
) -> Tensor:
    """Test-time augmentation: the average of what ``predict`` says of an image, its mirror image, and other sizes.

    Args:
        predict: maps images [N, C, h, w] of any size to maps [N, K, h, w] that may be averaged, such as softmax.
        images: floating [N, C, H, W].
        scales: factors of height and width, above 0, of the sizes to look at. Images are resized bilinearly, averaging
            where they shrink.
        mirror: whether to look at each size twice, the second time with left and right exchanged.

    Returns:
        [N, K, H, W], the mean of all views' maps, each turned back and resized bilinearly to H x W.

    Raises:
        ValueError: ``scales`` is empty or has a value that is not a finite number above 0.

    >>> average_over_views(lambda x: x.softmax(1), torch.rand(1, 3, 32, 48), scales=(0.5, 1)).shape
    torch.Size([1, 3, 32, 48])
    """
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise ValueError(f"average_over_views: scales must be numbers above 0, at least one, got {scales}")
    total: Tensor | None = None
    for scale in scales:
        view = _resize(images, view_size(images.shape[-2:], scale))
        for mirrored in (False, True) if mirror else (False,):
            maps = predict(view.flip(-1)).flip(-1) if mirrored else predict(view)
            maps = _resize(maps, images.shape[-2:])
            total = maps if total is None else total + maps
    assert total is not None
    return total / (len(scales) * (2 if mirror else 1))


def view_size(size: Sequence[int], scale: float) -> tuple[int, int]:
    """(height, width) of the view of an image of ``size`` at ``scale``."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False, antialias=True)
