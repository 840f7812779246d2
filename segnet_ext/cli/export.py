"""``segnet-ext export``."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segnet_ext._files import make_folder, write_atomically
from segnet_ext.cli import _options
from segnet_ext.errors import InputError, require
from segnet_ext.export import UNPOOLINGS, exported_program, onnx_model


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="write a model for another runtime",
        formatter_class=_options.HelpFormatter,
        description="Writes a checkpoint's model for images of any number and size: as an ONNX file "
        "of standard operators, compared with ONNX Runtime where that is installed, or as a program of torch.export, "
        "which is loaded after 'import segnet_ext'. Input: float32 [N, 3, H, W], as "
        "segnet_ext.data.images.normalize prepares images; output: the scores of the classes [N, K, H, W].",
    )
    _options.add_weights(parser)
    parser.add_argument("--format", choices=("onnx", "torch-export"), required=True, help="what to write")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .onnx, or in .pt2")
    parser.add_argument(
        "--unpool",
        choices=UNPOOLINGS,
        help="onnx: unpooling by comparisons, for every runtime, or by MaxUnpool, which few runtimes have (default: "
        "select)",
    )
    _options.add_threads(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    require("segnet-ext export", "PIL")
    from segnet_ext.checkpoint import MODEL_TYPES, read_checkpoint
    from segnet_ext.data.images import IMAGENET_MEAN, IMAGENET_STD

    _options.apply_threads(options)
    onnx = options.format == "onnx"
    suffix = ".onnx" if onnx else ".pt2"
    if options.out.suffix != suffix:
        raise InputError(f"--out must end in {suffix} for --format {options.format}, got {options.out}")
    if options.unpool and not onnx:
        raise InputError("--unpool is for --format onnx")
    if onnx:
        require("segnet-ext export --format onnx", "onnx", extra="export")
    checkpoint = read_checkpoint(options.weights)
    minimum = MODEL_TYPES[checkpoint.model].minimum_size
    model = checkpoint.build_model()
    metadata = {
        "class_names": json.dumps(checkpoint.classes.names),
        "model": checkpoint.model,
        "input": f"RGB, 0 to 1, minus {list(IMAGENET_MEAN)}, divided by {list(IMAGENET_STD)}",
    }
    if onnx:
        content = onnx_model(model, options.unpool or "select", metadata).SerializeToString()
    else:
        content = exported_program(model)
    agreement = _compare(content, model, minimum) if onnx else ""
    make_folder(options.out.parent)
    write_atomically(options.out, lambda file: file.write(content))
    print(f"{options.weights}: {checkpoint.model}, {len(checkpoint.classes)} classes, as {options.out}")
    if onnx:
        print(agreement)
    return 0


def _compare(content: bytes, model: nn.Module, minimum: int) -> str:
    """What ONNX Runtime makes of the file, beside the model, in a sentence; InputError if it is something else."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "not compared: onnxruntime is not installed (pip install 'segnet_ext[export]')"
    import onnxruntime

    x = torch.randn(1, 3, 2 * minimum + 5, 3 * minimum, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    actual = torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
    with torch.inference_mode():
        expected = model(x)
    # Where two pixels of a window tie but for rounding, either may win: a few pixels may differ.
    equal = float((actual.argmax(1) == expected.argmax(1)).float().mean())
    error = float((actual - expected).abs().median() / expected.abs().max())
    if not (equal >= 0.98 and error < 1e-3):
        raise InputError(f"ONNX Runtime gives other results: {100 * equal:.1f} % of the pixels have the same class")
    return (
        f"ONNX Runtime {onnxruntime.__version__} agrees on noise: {100 * equal:.2f} % of the pixels have the same "
        f"class, the scores differ by {error:.1e} of the largest (median)"
    )
