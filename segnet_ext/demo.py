"""The demo: SegNet-Basic learns drawn street scenes in about a minute, or labels images as it was trained to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

import segnet_ext
from segnet_ext import reference
from segnet_ext._files import make_folder, write_atomically
from segnet_ext.checkpoint import Checkpoint, write_checkpoint
from segnet_ext.data import CAMVID, Augmentation, Loader, MemoryDataset, synthetic_dataset
from segnet_ext.data.dataset import Batch
from segnet_ext.data.images import Bytes, normalize, read_image, resize_image
from segnet_ext.loss import median_frequency_weights
from segnet_ext.measure import Cost, measure_apart
from segnet_ext.pictures import Row, prediction_sheet
from segnet_ext.pretrained import read_pretrained
from segnet_ext.training import TrainingRun, evaluate, predict_classes

_SIZE = (64, 96)
_TRAINING_SCENES = 240
_VAL_SCENES = 12
_BATCH = 2
_LEARNING_RATE = 0.003
_REPORTS = 6
_PICTURE_ROWS = 5
_COMPARED_SIZE = (180, 240)
_COMPARED_BATCH = 2


def run_demo(seconds: float, out: Path) -> None:
    """Draws scenes, trains for ``seconds``, writes ``demo.png`` and ``demo.pt`` to ``out`` and compares with torch."""
    make_folder(out)
    print(f"drawing {_TRAINING_SCENES} training and {_VAL_SCENES} val scenes of {_SIZE[0]}x{_SIZE[1]}", flush=True)
    train = synthetic_dataset(_TRAINING_SCENES, _SIZE, seed=1)
    val = synthetic_dataset(_VAL_SCENES, _SIZE, seed=2)
    model = train_for(seconds, train, val)

    write_checkpoint(out / "demo.pt", Checkpoint("segnet-basic", CAMVID, _SIZE, model.state_dict()))
    picture = prediction_sheet(predictions(model, val, _PICTURE_ROWS), CAMVID)
    write_atomically(out / "demo.png", lambda file: picture.save(file, format="PNG"))
    print(f"wrote {out / 'demo.png'} (input, truth, prediction) and {out / 'demo.pt'}\n", flush=True)
    _compare(model, val.images)


def label_images(paths: Sequence[Path], out: Path) -> None:
    """Writes ``demo.png`` to ``out``, with what the trained model of the package sees in images, and compares with
    torch. Nothing is trained."""
    checkpoint = read_pretrained("the demo", "segnet-basic", "camvid")
    model = checkpoint.build_model()
    images = [resize_image(read_image(path), checkpoint.size) for path in paths]
    make_folder(out)
    rows = []
    for image in images:
        (label,) = predict_classes(model, torch.from_numpy(image[None])).numpy().astype(np.uint8)
        rows.append(Row(image, None, label))
    picture = prediction_sheet(rows, checkpoint.classes)
    write_atomically(out / "demo.png", lambda file: picture.save(file, format="PNG"))
    print(f"wrote {out / 'demo.png'}: SegNet-Basic as trained on CamVid, for research\n", flush=True)
    _compare(model, images)


def _compare(model: nn.Module, images: Sequence[Bytes]) -> None:
    print(agreement(model, images))
    print(comparison_table(_costs("ours"), _costs("torch channels_last")))


def train_for(seconds: float, train: MemoryDataset, val: MemoryDataset) -> nn.Module:
    """Trains a SegNet-Basic for about ``seconds`` of wall time, with a learning rate that falls to zero over it, and
    prints how it gets on."""
    torch.manual_seed(0)
    model = segnet_ext.SegNetBasic(len(CAMVID))
    # Adam rather than the paper's SGD: it gets further in a minute.
    optimizer = torch.optim.Adam(model.parameters(), _LEARNING_RATE)
    run = TrainingRun(
        model,
        optimizer,
        Loader(train, _BATCH, seed=0, augmentation=Augmentation()),
        Loader(val, _BATCH),
        median_frequency_weights(train),
    )
    print(f"training SegNet-Basic for {seconds:g} s on {torch.get_num_threads()} threads\n")
    print(f"{'time':>7} {'images':>7} {'loss':>8} {'val mIoU':>10}", flush=True)
    started, images_done, losses, reports = time.perf_counter(), 0, [], 1
    for images, target in _endless(run.train):
        done = (time.perf_counter() - started) / seconds
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * max(1 - done, 0.01)
        losses.append(run.step(images, target))
        images_done += len(images)
        elapsed = time.perf_counter() - started
        if elapsed >= seconds * reports / _REPORTS:
            score = evaluate(model, run.val).mean_iou
            print(f"{elapsed:5.0f} s {images_done:7} {np.mean(losses):8.4f} {100 * score:8.2f} %", flush=True)
            reports = int(_REPORTS * elapsed / seconds) + 1
            losses = []
        if elapsed >= seconds:
            return model.eval()
    raise AssertionError("the training images never run out")


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader
        loader.sampler.epoch += 1


def agreement(model: nn.Module, images: Sequence[Bytes]) -> str:
    """Compares the trained model's scores with those of the plain torch model that has the same weights."""
    plain = reference.SegNetBasic(len(CAMVID))
    plain.load_state_dict(model.state_dict())
    plain.eval()
    seen = normalize(torch.from_numpy(np.stack(images[:8])))
    with torch.inference_mode():
        ours, theirs = model(seen), plain(seen)
    same = (ours.argmax(1) == theirs.argmax(1)).double().mean().item()
    return (
        f"same weights in plain torch: scores differ by at most {(ours - theirs).abs().max():.1e} "
        f"(they reach {theirs.abs().max():.1f}), {100 * same:.3f} % of the pixels get the same class"
    )


def _costs(implementation: str) -> dict[str, Cost]:
    return {
        what: measure_apart(what, implementation, "segnet-basic", _COMPARED_SIZE, _COMPARED_BATCH)
        for what in ("inference", "training")
    }


def comparison_table(ours: dict[str, Cost], plain: dict[str, Cost]) -> str:
    """Ours beside plain torch, with the ratio of torch's figure to ours. Costs are those of inference and training."""
    rows: list[tuple[str, float | None, float | None, str]] = []
    for what in ("inference", "training"):
        mine, theirs = ours[what], plain[what]
        rows.append((what, mine.ms, theirs.ms, "ms"))
        rows.append((f"peak memory, {what}", _mebi(mine.peak_bytes), _mebi(theirs.peak_bytes), "MiB"))
    kept, kept_by_torch = (_mebi(costs["training"].saved_bytes) for costs in (ours, plain))
    rows.append(("kept for backward", kept, kept_by_torch, "MiB"))
    height, width = _COMPARED_SIZE
    lines = [
        f"SegNet-Basic, batch {_COMPARED_BATCH} of {height}x{width}, float32, channels_last, {torch.get_num_threads()} "
        "threads, each in a process of its own",
        f"{'':24} {'segnet_ext':>14} {'plain torch':>14} {'torch / ours':>13}",
    ]
    for title, figure, other, unit in rows:
        if figure is None or other is None:
            lines.append(f"{title:24} {'-':>14} {'-':>14} {'-':>13}")
        else:
            ratio = f"{other / figure:.2f}x" if figure else "-"
            lines.append(f"{title:24} {f'{figure:.1f} {unit}':>14} {f'{other:.1f} {unit}':>14} {ratio:>13}")
    return "\n".join(lines)


def _mebi(count: int | None) -> float | None:
    return None if count is None else count / 2**20


def predictions(model: nn.Module, dataset: MemoryDataset, count: int) -> list[Row]:
    """Input, truth and prediction of the first images."""
    images, labels = dataset.images[:count], dataset.labels[:count]
    predicted = predict_classes(model, torch.from_numpy(np.stack(images))).numpy().astype(np.uint8)
    return [Row(*maps) for maps in zip(images, labels, predicted, strict=True)]
