"""``segnet-ext train``."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from segnet_ext._files import make_folder, write_atomically
from segnet_ext.cli import _options, _settings
from segnet_ext.errors import InputError, require

if TYPE_CHECKING:
    from segnet_ext.data import FileDataset
    from segnet_ext.training import EpochResult, TrainingRun


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train on data in CamVid's published layout",
        formatter_class=_options.HelpFormatter,
        description="Trains a SegNet or what the paper compares it with on CamVid's published layout (train.txt, "
        "train/, trainannot/, val.txt, val/, valannot/): class-weighted cross-entropy, random mirroring, SGD with "
        "momentum, unless options say otherwise. After each epoch it evaluates on val and writes OUT/last.pt (to "
        "resume from), OUT/best.pt (the epoch with the highest val mIoU) and OUT/log.csv.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the data set")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoints and the log")
    _settings.add_arguments(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from OUT/last.pt; settings not given are taken from it, and changed ones are refused",
    )
    _options.add_workers(parser)
    _options.add_threads(parser)
    _options.add_device(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    require("segnet-ext train", "PIL", "tqdm", "torchmetrics")
    from segnet_ext.checkpoint import MODEL_TYPES
    from segnet_ext.data import Augmentation, Loader, camvid_dataset
    from segnet_ext.optim import OPTIMIZERS, schedule
    from segnet_ext.training import TrainingRun

    _options.apply_threads(options)
    device = _options.device(options)
    saved = _saved_training(options)
    settings = _settings.settle(options, saved["settings"] if saved else None)
    if settings.amp == "fp16" and device.type != "cuda":
        raise InputError("--amp fp16 needs --device cuda; on the CPU there is --amp bf16")
    size = _options.size(settings.size)
    crop = _options.size(settings.crop) if settings.crop else None
    minimum = MODEL_TYPES[settings.model].minimum_size
    _options.check_size(size, settings.model, minimum)
    if crop is not None:
        _options.check_size(crop, settings.model, minimum, "--crop")

    train = camvid_dataset(options.data, "train", size)
    val = camvid_dataset(options.data, "val", size)
    if saved and saved["data"] != train.fingerprint():
        raise InputError(
            f"the images listed in {options.data / 'train.txt'} are not those that the run in {options.out} "
            "was started with"
        )
    weights = _class_weights(settings.class_weights, train)

    torch.manual_seed(settings.seed)
    model = MODEL_TYPES[settings.model].build(len(train.classes))
    if options.vgg16 is not None and not saved:
        _load_vgg16(model, options.vgg16)
    model.to(device)
    augmentation = Augmentation(settings.flip == "on", _options.scales(settings.scale), crop, settings.color)
    batch = settings.batch_size * settings.accumulate
    loader = Loader(train, batch, settings.seed, options.workers, augmentation)
    optimizer = OPTIMIZERS[settings.optimizer](model, settings.lr, settings.momentum, settings.weight_decay)
    training = TrainingRun(
        model,
        optimizer,
        loader,
        Loader(val, settings.batch_size, workers=options.workers),
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

    make_folder(options.out)
    _introduce(settings, model, train, val, weights)
    try:
        with _interrupts_between_steps() as check_interrupt:
            _train(training, settings, options.out, check_interrupt)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"interrupted; {_kept(options.out / 'last.pt')}") from interrupt
    return 0


@contextlib.contextmanager
def _interrupts_between_steps() -> Iterator[Callable[[], None]]:
    """Yields a function that raises KeyboardInterrupt if Ctrl-C came since; a second Ctrl-C raises it at once.

    Raised wherever Python happens to be, it may be in a destructor, which loses it.
    """
    asked = False

    def ask(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

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
    return f"{last} holds epoch {len(state['run']['history'])}"


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


def _train(training: TrainingRun, settings: _settings.Settings, out: Path, check_interrupt: Callable[[], None]) -> None:
    if training.epoch >= settings.epochs:
        done = f"{out / 'last.pt'} already has {training.epoch} epochs"
        _options.note(f"{done}; nothing to do for --epochs {settings.epochs}")
    while training.epoch < settings.epochs:
        result = _run_epoch(training, settings.epochs, check_interrupt)
        _save(training, settings, out)
        print(
            f"epoch {result.epoch:3}/{settings.epochs}  loss {result.loss:.4f}  "
            f"val: G {100 * result.global_accuracy:.2f}  C {100 * result.class_average:.2f}  "
            f"mIoU {100 * result.mean_iou:.2f} %  "
            f"({result.seconds:.0f} s, {result.images_per_second:.1f} images/s)",
            flush=True,
        )


def _run_epoch(training: TrainingRun, epochs: int, check_interrupt: Callable[[], None]) -> EpochResult:
    from segnet_ext.training import evaluate

    label = f"epoch {training.epoch + 1}/{epochs}"
    with _options.progress_bar(len(training.train.dataset), label) as bar:
        mean = None

        def on_step(images: int, loss: float) -> None:
            nonlocal mean
            mean = loss if mean is None else 0.95 * mean + 0.05 * loss
            bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
            bar.update(images)
            check_interrupt()

        trained = training.train_epoch(on_step)
    with _options.progress_bar(len(training.val.dataset), f"{label} val") as bar:

        def on_batch(images: int) -> None:
            bar.update(images)
            check_interrupt()

        scores = evaluate(training.evaluated, training.val, on_batch)
    return training.finish_epoch(trained, scores)


def _save(training: TrainingRun, settings: _settings.Settings, out: Path) -> None:
    """Writes best.pt before last.pt and the log after it: wherever it is cut off, resuming makes all three whole."""
    from segnet_ext.checkpoint import Checkpoint, write_checkpoint

    dataset = training.train.dataset
    checkpoint = Checkpoint(
        model=settings.model,
        classes=dataset.classes,
        size=_options.size(settings.size),
        weights=training.evaluated.state_dict(),
    )
    latest = training.history[-1]
    if latest.mean_iou >= max(result.mean_iou for result in training.history):
        write_checkpoint(out / "best.pt", checkpoint)
    state = {"settings": asdict(settings), "data": dataset.fingerprint(), "run": training.state_dict()}
    write_checkpoint(out / "last.pt", replace(checkpoint, training=state))
    log = io.StringIO()
    table = csv.DictWriter(log, [field.name for field in fields(latest)])
    table.writeheader()
    table.writerows(asdict(result) for result in training.history)
    write_atomically(out / "log.csv", lambda file: file.write(log.getvalue().encode()))
