"""SegNet and SegNetBasic against the same networks in plain torch, same weights: inference and a training step.

Inference of ours is the frozen model's. It has further rivals (peers.py): BatchNorm folded into the convolutions, in
torch and in ONNX Runtime, and torch's bfloat16 autocast.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from harness import AUTOCAST, COMPILED, Step, Target, compiled, layout_of
from peers import fold_batch_norm, missing_packages, onnx_session
from torch import Tensor, nn

import segnet_ext
from segnet_ext import reference

CLASSES = 11
# CamVid's 360x480, half of each side, and what a training step of the report takes.
SHAPES = {"half": (1, 3, 180, 240), "full": (1, 3, 360, 480), "pair": (2, 3, 180, 240)}
DEFAULT = ["half"]
TINY = (1, 3, 64, 64)
# A training step is forward, loss and backward, without the optimizer.
DIRECTIONS = ["SegNet inference", "SegNet training step", "SegNetBasic inference", "SegNetBasic training step"]
REPORT = {direction: ["full" if direction.endswith("inference") else "pair"] for direction in DIRECTIONS}
FOLDED, ONNX = "torch folded channels_last", "onnxruntime"
# In float32 a near tie of a pool goes either way now and then, and BatchNorm spreads it.
TOLERANCE = 2e-2
TOLERANCES = {AUTOCAST: 0.3}  # bfloat16 turns many near ties
SECONDS = 8.0


def peers(direction: str) -> list[str]:
    if not direction.endswith("inference"):
        return []
    return [FOLDED, AUTOCAST] + ([] if missing_packages("onnx", "onnxruntime") else [ONNX])


def model_of(name: str, training: bool) -> nn.Module:
    """The reference model. For inference with statistics like a trained one's: folding has to do something."""
    torch.manual_seed(0)
    model = getattr(reference, name)(CLASSES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not training:
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.train(training)


def build(variant: str, direction: str, shape: Sequence[int], target: Target) -> Step:
    name, what = direction.split(maxsplit=1)
    model = model_of(name, training=what != "inference")
    layout = layout_of(variant, target)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(tuple(shape), generator=generator).to(target.device, memory_format=layout)
    labels = torch.randint(0, CLASSES, (shape[0], *shape[2:]), generator=generator).to(target.device)
    if variant == ONNX:
        session = onnx_session(model)
        return Step(lambda: [session(x)])
    if variant == FOLDED:
        model = fold_batch_norm(model)
    frozen = variant == "ours" and what == "inference"
    if variant == "ours":
        model = ours_of(model, name)
    if frozen:  # its weights already lie as its operations want them
        model = segnet_ext.freeze(model, target.dtype).to(target.device)
    else:
        model = model.to(target.device, memory_format=layout)
    parameters = list(model.parameters())
    run: Callable[[Tensor], Tensor] = compiled(model) if variant == COMPILED else model
    autocast = Target(target.device, torch.bfloat16).autocast if variant == AUTOCAST else target.autocast

    def inference() -> Sequence[Tensor]:
        with torch.inference_mode(), autocast():
            return [run(x)]

    def loss() -> Tensor:
        with autocast():
            return F.cross_entropy(run(x), labels)

    if what == "inference":
        return Step(inference)
    return Step(lambda: torch.autograd.grad(loss(), parameters)[-2:], loss, parameters)


def ours_of(model: nn.Module, name: str) -> nn.Module:
    """Our model with the reference's weights and mode."""
    ours = getattr(segnet_ext, name)(CLASSES)
    ours.load_state_dict(model.state_dict())
    return ours.train(model.training)


def test_models(run_case):
    run_case()
