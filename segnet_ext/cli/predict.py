"""``segnet-ext predict``."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from segnet_ext._files import make_folder, write_atomically
from segnet_ext.cli import _options
from segnet_ext.cli._sources import Source, check_outputs, find_sources
from segnet_ext.errors import InputError, require
from segnet_ext.inference import average_over_views, freeze, has_dropout, monte_carlo_dropout, view_size
from segnet_ext.pretrained import pretrained_files

# Passes of Monte Carlo dropout; the paper sees no gain above.
_SAMPLES = 40


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "predict",
        help="label images and videos",
        formatter_class=_options.HelpFormatter,
        description="Writes OUT/NAME_label.png (8-bit, pixel value = class) and OUT/NAME_overlay.png (the classes' "
        "colours over the image) for each image, in the image's own size. The model sees the image resized to --size; "
        "its scores are scaled back bilinearly before the best class is taken. A folder stands for all images and "
        "videos in it and below, whose results go to OUT/FOLDER/. A video becomes OUT/NAME_overlay.mp4 and "
        "OUT/NAME_label.mkv (FFV1, pixel value = class).",
    )
    parser.add_argument(
        "inputs", type=Path, nargs="+", metavar="INPUT", help="image or video file of any size, or folder of such files"
    )
    _options.add_weights(parser, default="segnet-basic-camvid")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--size",
        type=_options.size,
        metavar="HxW",
        help="height x width in pixels that the model sees (default: the checkpoint's training size)",
    )
    parser.add_argument(
        "--frames",
        action="store_true",
        help="write a video's results as PNG files, OUT/NAME/000001_label.png and so on, not as videos",
    )
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="for a model with dropout (Bayesian SegNet): label by the mean softmax of --samples passes with dropout "
        "on, and write their variance V, averaged over the K classes, as NAME_uncertainty.png (of videos .mkv): "
        "8-bit, 255 * sqrt(K * V), black where all passes agree",
    )
    parser.add_argument(
        "--samples",
        type=_options.count,
        metavar="T",
        help=f"passes of --uncertainty for each image (default: {_SAMPLES})",
    )
    parser.add_argument(
        "--seed",
        type=_options.seed,
        metavar="S",
        help="with --uncertainty: decides the dropout masks, the same for every image (default: 0)",
    )
    parser.add_argument(
        "--tta", action="store_true", help="test-time augmentation: average over the image and its mirror image"
    )
    parser.add_argument(
        "--tta-scales",
        type=_scales,
        metavar="S,...",
        help="with --tta, average over these multiples of --size too, such as 0.75,1,1.25 (default: 1)",
    )
    _options.add_threads(parser)
    _options.add_device(parser)
    parser.set_defaults(run=run)


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = (0.0,)
    if not all(0.1 <= scale <= 10 for scale in scales):
        raise argparse.ArgumentTypeError(f"must be numbers from 0.1 to 10 such as 0.75,1,1.25, got {text!r}")
    return scales


def run(options: argparse.Namespace) -> int:
    require("segnet-ext predict", "PIL", "tqdm")
    from segnet_ext.checkpoint import MODEL_TYPES, read_checkpoint
    from segnet_ext.data.images import image_size

    for name, needed in (("samples", "uncertainty"), ("seed", "uncertainty"), ("tta_scales", "tta")):
        if getattr(options, name) is not None and not getattr(options, needed):
            raise InputError(f"--{name.replace('_', '-')} needs --{needed}")
    device = _options.device(options)
    _options.apply_threads(options)
    checkpoint = read_checkpoint(options.weights)
    size = options.size or checkpoint.size
    minimum = MODEL_TYPES[checkpoint.model].minimum_size
    _options.check_size(size, checkpoint.model, minimum)
    scales = (options.tta_scales or (1.0,)) if options.tta else None
    for scale in scales or ():
        _check_scale(scale, size, checkpoint.model, minimum)
    model = checkpoint.build_model()
    if options.uncertainty and not has_dropout(model):
        raise InputError(
            f"--uncertainty needs a model with dropout (Bayesian SegNet); {options.weights} holds {checkpoint.model}, "
            "which has none"
        )

    sources = find_sources(options.inputs, options.out)
    kinds = ("label", "overlay", "uncertainty") if options.uncertainty else ("label", "overlay")
    check_outputs(sources, options.out, kinds, options.frames)
    if any(source.is_video for source in sources):
        require("segnet-ext predict on videos", "av", extra="video")
    total = 0
    for source in sources:
        if source.is_video:
            from segnet_ext.data.video import frame_count

            total += frame_count(source.path)
        else:
            image_size(source.path)
            total += 1

    predictor = Predictor(
        model,
        size,
        samples=(options.samples or _SAMPLES) if options.uncertainty else None,
        seed=options.seed or 0,
        scales=scales,
        device=device,
    )
    make_folder(options.out)
    if options.weights in pretrained_files().values():
        _options.note(f"labelling with {options.weights.stem}, trained on CamVid, for research")
    with _options.progress_bar(total, "predict") as bar:
        for source in sources:
            write = _predict_video if source.is_video else _predict_image
            written = write(source, predictor, checkpoint.classes.colors, kinds, options.frames, bar.update)
            print(f"{source.path}: {' '.join(str(path) for path in written)}", flush=True)
    return 0


def _check_scale(scale: float, size: tuple[int, int], model: str, minimum: int) -> None:
    scaled = view_size(size, scale)
    if min(scaled) < minimum:
        raise InputError(
            f"--tta-scales must leave at least {minimum}x{minimum} for {model}, "
            f"got {scale:g} which makes {_options.size_text(scaled)} of {_options.size_text(size)}"
        )


class Predictor:
    """Labels one image after the other.

    Args:
        model: as ``Checkpoint.build_model`` gives it.
        size: (height, width) that the model sees.
        samples: passes of Monte Carlo dropout for an image; None leaves dropout out.
        seed: decides the dropout masks.
        scales: of test-time augmentation; None leaves it out.
        device: what to compute on; the model is moved there.
    """

    def __init__(
        self,
        model: nn.Module,
        size: tuple[int, int],
        samples: int | None = None,
        seed: int = 0,
        scales: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if samples is None:
            model = freeze(model)
        self._model = model.to(device)
        self._size = size
        self._samples = samples
        self._seed = seed
        self._scales = scales
        self._device = device

    @torch.inference_mode()
    def __call__(self, image: Any) -> dict[str, Any]:
        """A uint8 RGB image [H, W, 3] to its ``label`` and, with ``samples``, ``uncertainty``, both uint8 [H, W]."""
        from segnet_ext.data.images import normalize, resize_image, uncertainty_map

        seen = normalize(torch.from_numpy(resize_image(image, self._size))[None].to(self._device))
        maps = self._maps(seen) if self._scales is None else average_over_views(self._maps, seen, self._scales)
        size = image.shape[:2]
        if self._samples is None:
            return {"label": _best_class(maps, size).cpu().numpy()}
        scores, variance = maps[:, :-1], maps[:, -1:]
        variance = F.interpolate(variance, size, mode="bilinear", align_corners=False)[0, 0]
        return {
            "label": _best_class(scores, size).cpu().numpy(),
            "uncertainty": uncertainty_map(variance.cpu(), scores.shape[1]),
        }

    def _maps(self, seen: torch.Tensor) -> torch.Tensor:
        """Scores of the classes, [N, K, H, W], and behind them, with ``samples``, the class-averaged variance."""
        if self._samples is not None:
            mean, variance = monte_carlo_dropout(self._model, seen, self._samples, self._seed)
            return torch.cat([mean, variance.mean(1, keepdim=True)], 1)
        logits: torch.Tensor = self._model(seen)
        return logits if self._scales is None else logits.softmax(1)


def _best_class(scores: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Scales scores [1, K, h, w] bilinearly to ``size`` and takes the best class, one class at a time: of a large image
    the scaled scores of all classes would take gigabytes."""
    best = torch.full(size, -torch.inf, device=scores.device)
    label = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    for index in range(scores.shape[1]):
        scaled = F.interpolate(scores[:, index : index + 1], size, mode="bilinear", align_corners=False)[0, 0]
        better = scaled > best
        best[better] = scaled[better]
        label[better] = index
    return label


def _predict_image(
    source: Source, predictor: Predictor, colors: Any, kinds: Sequence[str], frames: bool, update: Callable[[], object]
) -> list[Path]:
    from segnet_ext.data.images import read_image

    make_folder(source.target.parent)
    written = _write_pictures(source.target, _pictures(read_image(source.path), predictor, colors), kinds)
    update()
    return written


def _pictures(image: Any, predictor: Predictor, colors: Any) -> dict[str, Any]:
    """What is written for an image, by kind: label, overlay and perhaps uncertainty."""
    from segnet_ext.data.images import overlay

    pictures = predictor(image)
    return pictures | {"overlay": overlay(image, pictures["label"], colors)}


def _predict_video(
    source: Source, predictor: Predictor, colors: Any, kinds: Sequence[str], frames: bool, update: Callable[[], object]
) -> list[Path]:
    from segnet_ext.data.video import VideoWriter, frame_rate, read_video

    make_folder(source.target if frames else source.target.parent)
    outputs = source.outputs(kinds, frames)
    with ExitStack() as stack:
        videos = {}
        if not frames:
            rate = frame_rate(source.path)
            for kind, path in zip(kinds, outputs, strict=True):
                videos[kind] = stack.enter_context(VideoWriter(path, rate))
        for number, frame in enumerate(read_video(source.path), start=1):
            pictures = _pictures(frame.image, predictor, colors)
            if frames:
                _write_pictures(source.target / f"{number:06}", pictures, kinds)
            for kind, video in videos.items():
                video.write(pictures[kind], frame.time)
            update()
    return outputs


def _write_pictures(target: Path, pictures: dict[str, Any], kinds: Sequence[str]) -> list[Path]:
    paths = [target.with_name(f"{target.name}_{kind}.png") for kind in kinds]
    for path, kind in zip(paths, kinds, strict=True):
        _write_png(path, pictures[kind])
    return paths


def _write_png(path: Path, pixels: Any) -> None:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    write_atomically(path, lambda file: file.write(content.getvalue()))
