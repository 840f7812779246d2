"""Training and evaluating a segmentation model: the loss, the class weights, and a run that can be resumed exactly."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn

from segnet_ext.data.dataset import Loader, SegmentationDataset
from segnet_ext.data.images import normalize
from segnet_ext.errors import InputError
from segnet_ext.metrics import Scores, SegmentationScores

# Images that BatchNorm's statistics are computed over again after an epoch.
STATISTICS_IMAGES = 64


def median_frequency_weights(dataset: SegmentationDataset) -> torch.Tensor:
    """Class weights by median frequency balancing (SegNet paper, section 4.1).

    The frequency of a class is its pixels over all pixels (void too) of the images that have it; its weight is the
    median of the frequencies over its own. A class that no image has gets weight 0.

    Returns:
        float32 [K].
    """
    num_classes = len(dataset.classes)
    class_pixels = torch.zeros(num_classes, dtype=torch.float64)
    image_pixels = torch.zeros(num_classes, dtype=torch.float64)
    for index in range(len(dataset)):
        label = torch.from_numpy(dataset.load_label(index))
        counts = label.flatten().bincount(minlength=num_classes + 1)[:num_classes]
        class_pixels += counts
        image_pixels += (counts > 0) * label.numel()
    present = class_pixels > 0
    if not present.any():
        raise InputError("the training labels are void everywhere")
    frequency = class_pixels[present] / image_pixels[present]
    weights = torch.zeros(num_classes)
    # quantile, not median: of an even number torch.median takes the lower of the middle two
    weights[present] = (frequency.quantile(0.5) / frequency).float()
    return weights


def segmentation_loss(logits: torch.Tensor, target: torch.Tensor, class_weights: torch.Tensor) -> torch.Tensor:
    """Class-weighted cross-entropy, divided by the number of non-void pixels as the authors' Caffe does.

    ``torch.nn.CrossEntropyLoss(weight)`` divides by the sum of the pixels' weights instead.

    Args:
        logits: [N, K, H, W].
        target: int64 [N, H, W], 0 to K-1, or K for void.
        class_weights: [K].
    """
    void = logits.shape[1]
    total = F.cross_entropy(logits.float(), target, class_weights, ignore_index=void, reduction="sum")
    return total / (target != void).sum().clamp(min=1)


def sgd(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD that decays the convolutions' weights and BatchNorm's scales, not the biases, as the authors' solver does."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (plain if name.endswith("bias") else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)


def predict_classes(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The most likely class of each pixel: uint8 RGB images [N, H, W, 3] to int64 [N, H, W]."""
    with torch.inference_mode():
        return model(normalize(images)).argmax(1)


def evaluate(model: nn.Module, loader: Loader, on_batch: Callable[[int], object] = lambda images: None) -> Scores:
    """Scores of the model in eval mode; ``on_batch`` hears the number of images done. The mode is put back after."""
    scores = SegmentationScores(len(loader.dataset.classes))
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        for images, target in loader:
            scores.update(predict_classes(model, images.to(device)).cpu(), target)
            on_batch(len(images))
    finally:
        model.train(was_training)
    return scores.compute()


@dataclass(frozen=True)
class EpochResult:
    """One epoch of a run. ``loss`` is the mean over images; ``seconds`` is the time spent training."""

    epoch: int
    loss: float
    images_per_second: float
    seconds: float
    global_accuracy: float
    class_average: float
    mean_iou: float


@dataclass(frozen=True)
class TrainedEpoch:
    """What one pass over the training images gave. ``loss`` is the mean over images."""

    loss: float
    images: int
    seconds: float


class TrainingRun:
    """A model, its optimiser, and how far they have come.

    ``state_dict`` between two epochs holds all that decides what follows: put back by ``load_state_dict`` on a run
    made with the same settings, it goes on bit by bit as the first would have (on one thread).

    Args:
        model: its parameters are trained in place.
        optimizer: over the model's parameters.
        train: loader with a seed.
        val: loader without one.
        class_weights: [K].
        amp: run the model under bfloat16 autocast (evaluation is always in the model's own dtype).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: Loader,
        val: Loader,
        class_weights: torch.Tensor,
        amp: bool = False,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.train = train
        self.val = val
        self.device = next(model.parameters()).device
        self.class_weights = class_weights.to(self.device)
        self.amp = amp
        self.history: list[EpochResult] = []

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def step(self, images: torch.Tensor, target: torch.Tensor) -> float:
        """One optimiser step on a batch of the train loader; returns the loss."""
        with self._autocast():
            logits = self.model(normalize(images.to(self.device)))
        loss = segmentation_loss(logits, target.to(self.device), self.class_weights)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise InputError(f"the loss became {value} in epoch {self.epoch + 1}; a lower learning rate may help")
        return value

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.amp else contextlib.nullcontext()

    def recompute_statistics(self) -> None:
        """BatchNorm's running statistics anew, by the weights as they are now and the epoch's first training images.

        The averages kept during training are of weights that have changed since. The authors recompute theirs before
        testing, too (``compute_bn_statistics.py`` of SegNet-Tutorial).
        """
        batches = math.ceil(STATISTICS_IMAGES / self.train.batch_size)
        images = (normalize(images.to(self.device)) for images, _ in itertools.islice(self.train, batches))
        with self._autocast():
            update_bn(images, self.model)

    def train_epoch(self, on_step: Callable[[int, float], object] = lambda images, loss: None) -> TrainedEpoch:
        """Trains on every image once and recomputes BatchNorm's statistics.

        ``on_step`` hears each batch's number of images and loss.
        """
        self.model.train()
        self.train.sampler.epoch = self.epoch
        started = time.perf_counter()
        loss_sum, images_done = 0.0, 0
        for images, target in self.train:
            loss = self.step(images, target)
            loss_sum += loss * len(images)
            images_done += len(images)
            on_step(len(images), loss)
        trained = TrainedEpoch(loss_sum / images_done, images_done, time.perf_counter() - started)
        self.recompute_statistics()
        return trained

    def finish_epoch(self, trained: TrainedEpoch, scores: Scores) -> EpochResult:
        """Adds a trained epoch and the val scores after it to the history."""
        result = EpochResult(
            epoch=self.epoch + 1,
            loss=trained.loss,
            images_per_second=trained.images / trained.seconds,
            seconds=trained.seconds,
            global_accuracy=scores.global_accuracy,
            class_average=scores.class_average,
            mean_iou=scores.mean_iou,
        )
        self.history.append(result)
        return result

    def run_epoch(self) -> EpochResult:
        """Trains on every image once, evaluates on val and adds the result to the history."""
        return self.finish_epoch(self.train_epoch(), evaluate(self.model, self.val))

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model's weights, as plain dicts, lists, numbers and tensors."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "history": [dict(vars(result)) for result in self.history],
            "rng": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what ``state_dict`` gave; the model's weights are loaded apart."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [EpochResult(**result) for result in state["history"]]
        torch.set_rng_state(state["rng"]["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
