"""Training and evaluating a segmentation model: a run that can be resumed exactly."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, update_bn

from segnet_ext.data.dataset import Loader
from segnet_ext.data.images import normalize
from segnet_ext.errors import InputError
from segnet_ext.loss import loss_denominator, segmentation_loss
from segnet_ext.metrics import BoundaryScores, ImageScores, Scores, SegmentationScores
from segnet_ext.nn import convert_sync_batchnorm

# Images that BatchNorm's statistics are computed over again after an epoch.
STATISTICS_IMAGES = 64


def predict_classes(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The most likely class of each pixel: uint8 RGB images [N, H, W, 3] to int64 [N, H, W]."""
    with torch.inference_mode():
        return model(normalize(images)).argmax(1)


def evaluate(
    model: nn.Module,
    loader: Loader,
    on_batch: Callable[[int], object] = lambda images: None,
    others: Sequence[BoundaryScores | ImageScores] = (),
) -> Scores:
    """Scores of the model in eval mode, which is put back after.

    Args:
        model: of the loader's classes.
        loader: without a seed. If several processes share it, each gets the scores of all images.
        on_batch: hears the number of images done, in all processes.
        others: are given every prediction of this process, too.
    """
    processes = loader.processes
    scores = SegmentationScores(len(loader.dataset.classes))
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        for images, target in loader:
            predicted = predict_classes(model, images.to(device)).cpu()
            scores.update(predicted, target)
            for other in others:
                other.update(predicted, target)
            on_batch(int(processes.total(len(images))))
    finally:
        model.train(was_training)
    return scores.compute(processes)


@dataclass(frozen=True)
class EpochResult:
    """One epoch of a run.

    ``loss`` is the mean over images, ``lr`` the learning rate of the last step, ``seconds`` the time spent training.
    """

    epoch: int
    loss: float
    lr: float
    images_per_second: float
    seconds: float
    global_accuracy: float
    class_average: float
    mean_iou: float


@dataclass(frozen=True)
class TrainedEpoch:
    """What one pass over the training images gave. ``loss`` is the mean over images, ``lr`` the last step's."""

    loss: float
    lr: float
    images: int
    seconds: float


@dataclass
class PartialEpoch:
    """How far an epoch that is not in the history has come.

    ``steps`` and ``images`` are done, their losses times their images add up to ``loss_sum``, ``lr`` was the last
    step's. ``trained``: so are all steps, and BatchNorm's statistics are recomputed.
    """

    steps: int = 0
    loss_sum: float = 0.0
    images: int = 0
    lr: float = 0.0
    seconds: float = 0.0
    trained: bool = False


def exponential_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model that ``update_parameters`` moves towards it by ``1 - decay``; by more in the first steps, in
    which the average would else be of the weights that the model began with."""

    @torch.no_grad()
    def move(averages: Any, currents: Any, updates: Any) -> None:
        count = int(updates)
        weight = 1 - min(decay, (1 + count) / (10 + count))
        for average, current in zip(averages, currents, strict=True):
            average.lerp_(current.to(average.dtype), weight)

    return AveragedModel(model, multi_avg_fn=move)


class TrainingRun:
    """A model, its optimiser, and how far they have come.

    ``state_dict`` between two steps, batches of evaluation or epochs holds all that decides what follows: put back by
    ``load_state_dict`` on a run made with the same settings, it goes on bit by bit as the first would have (on one
    thread).

    If several processes share the loaders, they train as one would with the same batches, up to rounding: the loss is
    that of the whole batch, gradients are added up by DistributedDataParallel, and BatchNorm is synchronised. Only
    dropout differs, which each process draws from its own generator. All of them must call the same methods.

    Args:
        model: its parameters are trained in place; of the same values in each process. Where there are several
            processes, ``convert_sync_batchnorm`` is applied to it.
        optimizer: over the model's parameters.
        train: loader with a seed.
        val: loader without one.
        class_weights: [K].
        amp: run the model under autocast of this type, bfloat16 or float16 (which then scales the loss); None for the
            model's own. Evaluation is always in the model's own.
        scheduler: of the optimiser, stepped after each of its steps; None keeps the learning rate.
        accumulate: parts that a batch goes through the model in. Their gradients add up to those of the whole, but for
            BatchNorm, which has the statistics of each part.
        loss_by: as ``by`` of ``segmentation_loss``.
        ema: decay, 0 to below 1, of a running average of the weights, which is then what is evaluated and kept.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: Loader,
        val: Loader,
        class_weights: torch.Tensor,
        amp: torch.dtype | None = None,
        scheduler: LRScheduler | None = None,
        accumulate: int = 1,
        loss_by: str = "pixels",
        ema: float | None = None,
    ) -> None:
        self.processes = train.processes
        self.device = next(model.parameters()).device
        self.model = model
        self._forward: nn.Module = model
        self._parallel: DistributedDataParallel | None = None
        if self.processes.size > 1:
            self.model = convert_sync_batchnorm(model)
            self._forward = self._parallel = DistributedDataParallel(self.model)
        self.optimizer = optimizer
        self.train = train
        self.val = val
        self.class_weights = class_weights.to(self.device)
        self.amp = amp
        self.scheduler = scheduler
        self.accumulate = accumulate
        self.loss_by = loss_by
        self.average = None if ema is None else exponential_average(self.model, ema)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == torch.float16)
        self.history: list[EpochResult] = []
        self.partial = PartialEpoch()
        # As they are stored: what is scaled, cropped and recoloured has other statistics than what is evaluated.
        self._unchanged = Loader(train.dataset, train.batch_size, train.sampler.seed, processes=self.processes)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def evaluated(self) -> nn.Module:
        """The model to evaluate and to keep: the running average where there is one."""
        return self.model if self.average is None else self.average.module

    def step(self, images: torch.Tensor, target: torch.Tensor) -> float:
        """One optimiser step on a batch of the train loader, or this process's images of it; returns the loss."""
        images, target = images.to(self.device), target.to(self.device)
        denominator = self.processes.sum(loss_denominator(target, self.class_weights, self.loss_by))
        self.optimizer.zero_grad()
        value = 0.0
        shares = self._shares(len(images))
        for share in shares:
            last = share is shares[-1]
            with contextlib.nullcontext() if last or self._parallel is None else self._parallel.no_sync():
                with self._autocast():
                    logits = self._forward(normalize(images[share]))
                loss = segmentation_loss(logits, target[share], self.class_weights, denominator=denominator)
                # DistributedDataParallel averages where the sum is due.
                self.scaler.scale(self.processes.size * loss).backward()
            value += loss.item()
        value = self.processes.total(value)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        if not math.isfinite(value):
            raise InputError(f"the loss became {value} in epoch {self.epoch + 1}; a lower learning rate may help")
        return value

    def _shares(self, images: int) -> list[slice]:
        """Where this process's images of the parts of a batch begin and end among its ``images`` of the batch."""
        rank, size = self.processes.rank, self.processes.size
        total = int(self.processes.total(images))
        part = math.ceil(total / self.accumulate)
        # This process has the batch's images rank, rank + size, rank + 2 * size and so on.
        bounds = [max(0, math.ceil((bound - rank) / size)) for bound in [*range(0, total, part), total]]
        return [slice(*pair) for pair in itertools.pairwise(bounds)]

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self.amp is None else torch.autocast(self.device.type, self.amp)

    def recompute_statistics(self) -> None:
        """BatchNorm's running statistics anew, by the weights as they are now and training images of this epoch.

        The averages kept during training are of weights that have changed since. The authors recompute theirs before
        testing, too (``compute_bn_statistics.py`` of SegNet-Tutorial).
        """
        batches = math.ceil(STATISTICS_IMAGES / self.train.batch_size)
        self._unchanged.sampler.epoch = self.epoch
        images = (normalize(images.to(self.device)) for images, _ in itertools.islice(self._unchanged, batches))
        with self._autocast():
            update_bn(images, self.evaluated)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.param_groups[0]["lr"]

    def train_epoch(self, on_step: Callable[[int, float], object] = lambda images, loss: None) -> TrainedEpoch:
        """Trains on every image once and recomputes BatchNorm's statistics; of an epoch that was begun, what is left.

        ``on_step`` hears each batch's number of images and loss.
        """
        part = self.partial
        if not part.trained:
            self.model.train()
            self.train.sampler.epoch = self.epoch
            started = time.perf_counter() - part.seconds
            for images, target in self.train.from_batch(part.steps):
                part.lr = self.lr
                loss = self.step(images, target)
                count = int(self.processes.total(len(images)))
                part.steps += 1
                part.images += count
                part.loss_sum += loss * count
                part.seconds = time.perf_counter() - started
                on_step(count, loss)
            self.recompute_statistics()
            part.trained = True
        return TrainedEpoch(part.loss_sum / part.images, part.lr, part.images, part.seconds)

    def finish_epoch(self, trained: TrainedEpoch, scores: Scores) -> EpochResult:
        """Adds a trained epoch and the val scores after it to the history."""
        result = EpochResult(
            epoch=self.epoch + 1,
            loss=trained.loss,
            lr=trained.lr,
            images_per_second=trained.images / trained.seconds,
            seconds=trained.seconds,
            global_accuracy=scores.global_accuracy,
            class_average=scores.class_average,
            mean_iou=scores.mean_iou,
        )
        self.history.append(result)
        self.partial = PartialEpoch()
        return result

    def run_epoch(self) -> EpochResult:
        """Trains on every image once, evaluates on val and adds the result to the history."""
        return self.finish_epoch(self.train_epoch(), evaluate(self.evaluated, self.val))

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights of ``evaluated``, as plain dicts, lists, numbers and tensors, the same in each
        process."""
        average = None
        if self.average is not None:
            average = {"model": self.model.state_dict(), "updates": int(self.average.n_averaged)}
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": average,
            "history": [dict(vars(result)) for result in self.history],
            "partial": dict(vars(self.partial)),
            "rng": self.processes.gather(
                {
                    "cpu": torch.get_rng_state(),
                    "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
                }
            ),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what ``state_dict`` gave; the weights of ``evaluated`` are loaded apart."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.model.load_state_dict(state["average"]["model"])
            self.average.n_averaged.fill_(state["average"]["updates"])
        self.history = [EpochResult(**result) for result in state["history"]]
        self.partial = PartialEpoch(**state["partial"])
        random = state["rng"][self.processes.rank]
        torch.set_rng_state(random["cpu"])
        if self.device.type == "cuda" and random["cuda"] is not None:
            torch.cuda.set_rng_state(random["cuda"], self.device)
