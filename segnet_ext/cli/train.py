"""``segnet-ext train``."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from segnet_ext._files import make_folder, write_atomically
from segnet_ext.cli import _options, _settings
from segnet_ext.cli._curves import draw_curves
from segnet_ext.errors import InputError, require

if TYPE_CHECKING:
    from segnet_ext.checkpoint import Checkpoint
    from segnet_ext.data import FileDataset, Loader
    from segnet_ext.distributed import Processes
    from segnet_ext.training import EpochResult, TrainingRun


# Epochs may be much shorter than the drawing.
_SECONDS_BETWEEN_CURVES = 10


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train on CamVid, SUN RGB-D or a folder of one's own",
        formatter_class=_options.HelpFormatter,
        description="Trains a SegNet or what the paper compares it with on the split train of a data set: "
        "class-weighted cross-entropy, random mirroring, SGD with momentum, unless options say otherwise. After each "
        "epoch it evaluates on val and writes OUT/last.pt (to resume from), OUT/best.pt (the epoch with the highest "
        "val mIoU), OUT/log.csv and OUT/curves.png; at the end OUT/predictions.png, where val images stand beside "
        "truth and the prediction of OUT/best.pt. Ctrl-C ends the step that is being done and saves all steps in "
        "OUT/last.pt; a second one stops at once, with OUT/last.pt as it was.",
        epilog="Several processes: torchrun --nproc-per-node P -m segnet_ext train, and the same options. Each process "
        "has its own --batch-size images of a batch (P times as many in all), --threads, --workers and, with --device "
        "cuda, GPU. Loss, BatchNorm's statistics, gradients and scores are those of the whole batch, as of one process "
        "with P times the --batch-size; the learning rate is as given. A run is resumed with as many processes.",
    )
    _options.add_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoints and the log")
    _settings.add_arguments(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from OUT/last.pt; settings not given are taken from it, and changed ones are refused",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="also write what log.csv has as event files to OUT/tensorboard (needs the package tensorboard)",
    )
    parser.add_argument(
        "--grad-checkpointing",
        action="store_true",
        help="take less memory and more time: keep only the maps between stages for backward, which makes those inside "
        "them again; the result is the same",
    )
    _options.add_workers(parser)
    _options.add_threads(parser)
    _options.add_device(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    require("segnet-ext train", "PIL", "tqdm", "torchmetrics", "matplotlib")
    from segnet_ext.distributed import join

    if options.tensorboard:
        require("--tensorboard", "tensorboard", extra="tensorboard")
    _options.apply_threads(options)
    with join(_options.device(options)) as processes:
        return _run(options, processes)


def _run(options: argparse.Namespace, processes: Processes) -> int:
    """``run`` in each of the processes, of which the first prints and writes."""
    from segnet_ext.checkpoint import MODEL_TYPES
    from segnet_ext.data import Augmentation, Loader, open_dataset
    from segnet_ext.optim import OPTIMIZERS, schedule
    from segnet_ext.training import TrainingRun

    device = processes.device
    saved = _saved_training(options)
    settings = _settings.settle(options, saved["settings"] if saved else None, processes.size)
    if settings.amp == "fp16" and device.type != "cuda":
        raise InputError("--amp fp16 needs --device cuda; on the CPU there is --amp bf16")
    size = _options.size(settings.size)
    crop = _options.size(settings.crop) if settings.crop else None
    minimum = MODEL_TYPES[settings.model].minimum_size
    _options.check_size(size, settings.model, minimum)
    if crop is not None:
        _options.check_size(crop, settings.model, minimum, "--crop")

    train = open_dataset(options.data, "train", size, settings.dataset)
    val = open_dataset(options.data, "val", size, settings.dataset)
    if saved and saved["data"] != train.fingerprint():
        raise InputError(
            f"the training images and labels in {options.data} are not those that the run in {options.out} was started "
            "with"
        )
    weights = _class_weights(settings.class_weights, train)

    torch.manual_seed(settings.seed)
    model = MODEL_TYPES[settings.model].build(len(train.classes))
    if options.vgg16 is not None and not saved:
        _load_vgg16(model, options.vgg16)
    model.set_grad_checkpointing(options.grad_checkpointing)
    model.to(device)
    if processes.rank > 0:  # for dropout, which should not be the same in all processes
        torch.manual_seed(settings.seed + processes.rank)
    augmentation = Augmentation(settings.flip == "on", _options.scales(settings.scale), crop, settings.color)
    batch = settings.batch_size * processes.size
    loader = Loader(train, batch * settings.accumulate, settings.seed, options.workers, augmentation, processes)
    optimizer = OPTIMIZERS[settings.optimizer](model, settings.lr, settings.momentum, settings.weight_decay)
    training = TrainingRun(
        model,
        optimizer,
        loader,
        Loader(val, batch, workers=options.workers, processes=processes),
        weights,
        amp={"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.amp],
        scheduler=schedule(
            optimizer,
            settings.schedule,
            settings.epochs * len(loader),
            settings.poly_power,
            settings.step_epochs * len(loader),
            settings.step_factor,
            settings.warmup * len(loader),
        ),
        accumulate=settings.accumulate,
        loss_by=settings.loss_norm,
        ema=settings.ema or None,
    )
    if saved:
        training.evaluated.load_state_dict(saved["weights"])
        try:
            training.load_state_dict(saved["run"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"the training state in {options.out / 'last.pt'} is damaged: {error}") from error

    if processes.first:
        make_folder(options.out)
        _introduce(settings, model, train, val, weights)
    epochs_before = training.epoch
    try:
        with _epoch_log(options, training) as log_epoch, _interrupts_between_steps(processes) as check_interrupt:
            _train(training, settings, options.out, check_interrupt, log_epoch)
    except KeyboardInterrupt as interrupt:
        if not processes.first:
            return 130
        raise KeyboardInterrupt(f"interrupted; {_kept(options.out / 'last.pt')}") from interrupt
    finished_before = training.epoch == epochs_before and (options.out / "predictions.png").exists()
    if processes.first and not finished_before:
        _write_predictions(options.out, Loader(val, settings.batch_size, workers=options.workers), device)
    return 0


def _epoch_log(
    options: argparse.Namespace, training: TrainingRun
) -> contextlib.AbstractContextManager[Callable[[EpochResult], object]]:
    """A function that hears of each epoch, for --tensorboard."""
    if not (options.tensorboard and training.processes.first):
        return contextlib.nullcontext(lambda result: None)
    from segnet_ext.cli._tensorboard import event_files

    return event_files(options.out / "tensorboard", training.history)


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C, raised where the run can be saved."""


@contextlib.contextmanager
def _interrupts_between_steps(processes: Processes) -> Iterator[Callable[[], None]]:
    """Yields a function that raises _Interrupted if Ctrl-C came since, to any of the processes, which all call it.

    Raised wherever Python happens to be, it may be in a destructor, which loses it. A second Ctrl-C raises
    KeyboardInterrupt at once; but not of several processes, of which torchrun sends each another one.
    """
    asked = False

    def ask(signum: int, frame: object) -> None:
        nonlocal asked
        if asked and processes.size == 1:
            raise KeyboardInterrupt
        asked = True

    def check() -> None:
        if processes.total(asked):
            raise _Interrupted

    if threading.current_thread() is not threading.main_thread():
        yield check  # only the main thread hears signals
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def _kept(last: Path) -> str:
    """What an interrupted run can go on from, by the file itself: the interrupt may have come while it was written."""
    from segnet_ext.checkpoint import read_checkpoint

    if not last.exists():
        return "no epoch was finished"
    state = read_checkpoint(last).training
    assert state is not None
    steps = state["run"]["partial"]["steps"]
    more = f" and {steps} {'step' if steps == 1 else 'steps'} of the next" if steps else ""
    epochs = len(state["run"]["history"])
    return f"{last} holds {epochs} {'epoch' if epochs == 1 else 'epochs'}{more}"


def _saved_training(options: argparse.Namespace) -> dict[str, Any] | None:
    """The training state in OUT/last.pt if the run is to be resumed, with the model's weights put in."""
    from segnet_ext.checkpoint import read_checkpoint

    last = options.out / "last.pt"
    if not options.resume:
        if last.exists():
            raise InputError(f"{last} exists: give --resume to go on from it, or another --out")
        return None
    if not last.exists():
        raise InputError(f"there is nothing to resume: {last} does not exist")
    checkpoint = read_checkpoint(last)
    state = checkpoint.training
    if not isinstance(state, dict) or state.keys() != {"settings", "data", "run"}:
        raise InputError(f"{last} holds a model but no training state to resume from")
    state["settings"] = {"dataset": "camvid"} | state["settings"]  # the only one once
    if state["settings"].keys() != {field.name for field in fields(_settings.Settings)}:
        raise InputError(f"{last} was written by another version of segnet-ext train and cannot be resumed")
    return state | {"weights": checkpoint.weights}


def _class_weights(kind: str, train: FileDataset) -> torch.Tensor:
    from segnet_ext.data import CAMVID
    from segnet_ext.loss import AUTHORS_CAMVID_WEIGHTS, median_frequency_weights

    # In any case: it reads every label, so that a bad one is refused before training.
    computed = median_frequency_weights(train)
    if kind == "median":
        return computed
    if kind == "sqrt-median":
        return computed.sqrt()
    if kind == "none":
        return torch.ones(len(train.classes))
    if train.classes.names != CAMVID.names:
        raise InputError(
            f"--class-weights authors are for CamVid's classes {', '.join(CAMVID.names)}, "
            f"but the data has {', '.join(train.classes.names)}"
        )
    return torch.tensor(AUTHORS_CAMVID_WEIGHTS)


def _load_vgg16(model: Any, path: Path) -> None:
    try:
        model.load_vgg16(path)
    except ImportError as error:
        raise InputError(f"--vgg16 {path}: {error}") from error
    except (ValueError, OSError) as error:
        if error.__cause__ is not None or isinstance(error, OSError):
            raise InputError(f"--vgg16 {path} is cut short or not a file of weights") from error
        # The first line is a sentence; each of the others names a key that does not fit.
        first, *keys = (line.strip() for line in str(error).removeprefix("load_vgg16: ").splitlines())
        shown = f" {keys[0]}" + (f" (and {len(keys) - 1} more)" if len(keys) > 1 else "") if keys else ""
        raise InputError(f"--vgg16: {first}{shown}") from error


def _introduce(
    settings: _settings.Settings, model: nn.Module, train: FileDataset, val: FileDataset, weights: torch.Tensor
) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    _options.note(
        f"{settings.model}, {parameters:,} parameters; {len(train)} training and {len(val)} val images at "
        f"{settings.size}; {torch.get_num_threads()} threads"
    )
    pairs = zip(train.classes.names, weights.tolist(), strict=True)
    shown = ", ".join(f"{name} {weight:.4f}" for name, weight in pairs)
    _options.note(f"class weights: {shown}")


def _train(
    training: TrainingRun,
    settings: _settings.Settings,
    out: Path,
    check_interrupt: Callable[[], None],
    log_epoch: Callable[[EpochResult], object],
) -> None:
    first = training.processes.first
    if training.epoch >= settings.epochs and first:
        done = f"{out / 'last.pt'} already has {training.epoch} epochs"
        _options.note(f"{done}; nothing to do for --epochs {settings.epochs}")
    started, epochs_before, drawn = time.monotonic(), training.epoch, -math.inf
    while training.epoch < settings.epochs:
        try:
            result = _run_epoch(training, settings.epochs, check_interrupt)
        except _Interrupted:
            _save_last(training, settings, out)
            raise
        _save(training, settings, out)
        if not first:
            continue
        log_epoch(result)
        now = time.monotonic()
        left = timedelta(
            seconds=round((now - started) / (result.epoch - epochs_before) * (settings.epochs - result.epoch))
        )
        print(
            f"epoch {result.epoch:3}/{settings.epochs}  loss {result.loss:.4f}  "
            f"val: G {100 * result.global_accuracy:.2f}  C {100 * result.class_average:.2f}  "
            f"mIoU {100 * result.mean_iou:.2f} %  "
            f"({result.seconds:.0f} s, {result.images_per_second:.1f} images/s, {left} left)",
            flush=True,
        )
        if now - drawn > _SECONDS_BETWEEN_CURVES or result.epoch == settings.epochs:
            write_atomically(out / "curves.png", lambda file: draw_curves(training.history, file))
            drawn = now


def _write_predictions(out: Path, val: Loader, device: torch.device) -> None:
    """Draws what best.pt makes of val."""
    from segnet_ext.checkpoint import read_checkpoint
    from segnet_ext.cli._sheet import write_sheet
    from segnet_ext.metrics import ImageScores
    from segnet_ext.training import evaluate

    scores = ImageScores(len(val.dataset.classes))
    model = read_checkpoint(out / "best.pt").build_model().to(device)
    with _options.progress_bar(len(val.dataset), "predictions") as bar:
        evaluate(model, val, bar.update, [scores])
    write_sheet(out / "predictions.png", model, val.dataset, scores.mean_iou, "val")


def _run_epoch(training: TrainingRun, epochs: int, check_interrupt: Callable[[], None]) -> EpochResult:
    from segnet_ext.training import evaluate

    label = f"epoch {training.epoch + 1}/{epochs}"
    shown = training.processes.first
    with _options.progress_bar(len(training.train.dataset), label, training.partial.images, shown) as bar:
        mean = None

        def on_step(images: int, loss: float) -> None:
            nonlocal mean
            mean = loss if mean is None else 0.95 * mean + 0.05 * loss
            bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
            bar.update(images)
            check_interrupt()

        trained = training.train_epoch(on_step)
    with _options.progress_bar(len(training.val.dataset), f"{label} val", shown=shown) as bar:

        def on_batch(images: int) -> None:
            bar.update(images)
            check_interrupt()

        scores = evaluate(training.evaluated, training.val, on_batch)
    return training.finish_epoch(trained, scores)


def _save(training: TrainingRun, settings: _settings.Settings, out: Path) -> None:
    """Writes best.pt before last.pt and the log after it: wherever it is cut off, resuming makes all three whole."""
    from segnet_ext.checkpoint import write_checkpoint

    latest = training.history[-1]
    if training.processes.first and latest.mean_iou >= max(result.mean_iou for result in training.history):
        write_checkpoint(out / "best.pt", _checkpoint(training, settings))
    _save_last(training, settings, out)
    if training.processes.first:
        log = io.StringIO()
        table = csv.DictWriter(log, [field.name for field in fields(latest)])
        table.writeheader()
        table.writerows(asdict(result) for result in training.history)
        write_atomically(out / "log.csv", lambda file: file.write(log.getvalue().encode()))


def _save_last(training: TrainingRun, settings: _settings.Settings, out: Path) -> None:
    from segnet_ext.checkpoint import write_checkpoint

    run = training.state_dict()  # which all processes must ask for
    if training.processes.first:
        state = {"settings": asdict(settings), "data": training.train.dataset.fingerprint(), "run": run}
        write_checkpoint(out / "last.pt", replace(_checkpoint(training, settings), training=state))


def _checkpoint(training: TrainingRun, settings: _settings.Settings) -> Checkpoint:
    from segnet_ext.checkpoint import Checkpoint

    return Checkpoint(
        model=settings.model,
        classes=training.train.dataset.classes,
        size=_options.size(settings.size),
        weights=training.evaluated.state_dict(),
    )
