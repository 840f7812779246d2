"""``segnet-ext train``."""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from segnet_ext._files import make_folder, write_atomically
from segnet_ext.cli import _options
from segnet_ext.errors import InputError, require

if TYPE_CHECKING:
    from segnet_ext.data import FileDataset
    from segnet_ext.training import EpochResult, TrainingRun


@dataclass(frozen=True)
class Settings:
    """What makes one training run different from another; a resumed run must have the same. As plain data."""

    model: str
    size: str
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    seed: int
    amp: str
    vgg16: str


_DEFAULTS: dict[str, Any] = {
    "size": (360, 480),
    "batch_size": 4,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "seed": 0,
    "amp": "off",
}
_MODELS = (
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
)


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train on data in CamVid's published layout",
        formatter_class=_options.HelpFormatter,
        description="Trains SegNet or SegNet-Basic on CamVid's published layout (train.txt, train/, trainannot/, "
        "val.txt, val/, valannot/): class-weighted cross-entropy (median frequency), random mirroring, SGD with "
        "momentum. After each epoch it evaluates on val and writes OUT/last.pt (to resume from), OUT/best.pt (the "
        "epoch with the highest val mIoU) and OUT/log.csv.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the data set")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoints and the log")
    parser.add_argument(
        "--model", choices=_MODELS, metavar="NAME", help=f"required, but for --resume: {', '.join(_MODELS)}"
    )
    parser.add_argument(
        "--size",
        type=_options.size,
        metavar="HxW",
        help="height x width in pixels that images (bilinear) and labels (nearest) are resized to (default: 360x480)",
    )
    parser.add_argument(
        "--epochs",
        type=_options.count,
        default=50,
        metavar="N",
        help="epochs in all, those before --resume too (default: 50)",
    )
    parser.add_argument("--batch-size", type=_options.count, metavar="B", help="images in a batch (default: 4)")
    parser.add_argument(
        "--lr",
        type=_options.positive,
        metavar="LR",
        help="learning rate (default: 0.02 for the SegNets, 0.005 for the Basic ones)",
    )
    parser.add_argument("--momentum", type=_options.fraction, metavar="M", help="SGD momentum (default: 0.9)")
    parser.add_argument(
        "--weight-decay", type=_options.not_negative, metavar="D", help="weight decay, biases excepted (default: 5e-4)"
    )
    parser.add_argument(
        "--vgg16",
        type=Path,
        metavar="FILE",
        help="start segnet's encoder from torchvision's vgg16 or vgg16_bn (.pth or .safetensors)",
    )
    parser.add_argument("--amp", choices=("off", "bf16"), help="bf16: train under bfloat16 autocast (default: off)")
    parser.add_argument(
        "--seed", type=_options.seed, metavar="S", help="seed of weights, order and mirroring (default: 0)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from OUT/last.pt; settings not given are taken from it, and changed ones are refused",
    )
    _options.add_workers(parser)
    _options.add_threads(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    require("segnet-ext train", "PIL", "tqdm", "torchmetrics")
    from segnet_ext.checkpoint import MODEL_TYPES
    from segnet_ext.data import Loader, camvid_dataset
    from segnet_ext.training import TrainingRun, median_frequency_weights, sgd

    _options.apply_threads(options)
    saved = _saved_training(options)
    settings = _settle(options, saved["settings"] if saved else None)
    size = _options.size(settings.size)
    _options.check_size(size, settings.model, MODEL_TYPES[settings.model].minimum_size)

    train = camvid_dataset(options.data, "train", size)
    val = camvid_dataset(options.data, "val", size)
    if saved and saved["data"] != train.fingerprint():
        raise InputError(
            f"the images listed in {options.data / 'train.txt'} are not those that the run in {options.out} "
            "was started with"
        )
    weights = median_frequency_weights(train)

    torch.manual_seed(settings.seed)
    model = MODEL_TYPES[settings.model].build(len(train.classes))
    if options.vgg16 is not None and not saved:
        _load_vgg16(model, options.vgg16)
    training = TrainingRun(
        model,
        sgd(model, settings.lr, settings.momentum, settings.weight_decay),
        Loader(train, settings.batch_size, settings.seed, options.workers),
        Loader(val, settings.batch_size, workers=options.workers),
        weights,
        amp=settings.amp == "bf16",
    )
    if saved:
        model.load_state_dict(saved["weights"])
        try:
            training.load_state_dict(saved["run"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"the training state in {options.out / 'last.pt'} is damaged: {error}") from error

    make_folder(options.out)
    _introduce(settings, model, train, val, weights)
    try:
        with _interrupts_between_steps() as check_interrupt:
            _train(training, settings, options, check_interrupt)
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
    if state["settings"].keys() != {field.name for field in fields(Settings)}:
        raise InputError(f"{last} was written by another version of segnet-ext train and cannot be resumed")
    return state | {"weights": checkpoint.weights}


def _settle(options: argparse.Namespace, saved: dict[str, Any] | None) -> Settings:
    """The run's settings: those given, else those saved, else the defaults. A given one that differs is refused."""
    from segnet_ext.checkpoint import MODEL_TYPES

    given = {field.name: getattr(options, field.name) for field in fields(Settings)}
    given = {name: value for name, value in given.items() if value is not None}
    if saved is None:
        if "model" not in given:
            raise InputError(f"--model is required: {', '.join(_MODELS)}")
        if "vgg16" in given and given["model"] not in ("segnet", "bayesian-segnet", "segnet-extra-conv"):
            raise InputError(f"--vgg16 is for --model segnet and bayesian-segnet, got --model {given['model']}")
        given = _DEFAULTS | {"lr": MODEL_TYPES[given["model"]].default_lr, "vgg16": None} | given
    if "size" in given:
        given["size"] = _options.size_text(given["size"])
    if "vgg16" in given:
        given["vgg16"] = _digest(given["vgg16"])
    if saved is None:
        return Settings(**given)
    for name, value in given.items():
        if value != saved[name]:
            flag = "--" + name.replace("_", "-")
            was = "another file" if name == "vgg16" else saved[name]
            now = options.vgg16 if name == "vgg16" else value
            raise InputError(
                f"{flag} {now} differs from the run to resume, which has {was}: leave {flag} out, "
                "or start afresh in another --out"
            )
    return Settings(**saved)


def _digest(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"--vgg16 {path} cannot be read: {error.strerror}") from error


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
    settings: Settings, model: nn.Module, train: FileDataset, val: FileDataset, weights: torch.Tensor
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
    training: TrainingRun, settings: Settings, options: argparse.Namespace, check_interrupt: Callable[[], None]
) -> None:
    if training.epoch >= options.epochs:
        done = f"{options.out / 'last.pt'} already has {training.epoch} epochs"
        _options.note(f"{done}; nothing to do for --epochs {options.epochs}")
    while training.epoch < options.epochs:
        result = _run_epoch(training, options.epochs, check_interrupt)
        _save(training, settings, options.out)
        print(
            f"epoch {result.epoch:3}/{options.epochs}  loss {result.loss:.4f}  "
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

        scores = evaluate(training.model, training.val, on_batch)
    return training.finish_epoch(trained, scores)


def _save(training: TrainingRun, settings: Settings, out: Path) -> None:
    """Writes best.pt before last.pt and the log after it: wherever it is cut off, resuming makes all three whole."""
    from segnet_ext.checkpoint import Checkpoint, write_checkpoint

    dataset = training.train.dataset
    checkpoint = Checkpoint(
        model=settings.model,
        classes=dataset.classes,
        size=_options.size(settings.size),
        weights=training.model.state_dict(),
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
