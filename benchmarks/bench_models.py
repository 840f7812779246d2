"""SegNet and SegNetBasic against the same networks in plain torch, same weights: inference and a training step."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from harness import COMPILED, Step, Target, layout_of
from torch import Tensor

import segnet_ext
from segnet_ext import reference

CLASSES = 11
SHAPES = {"half": (1, 3, 180, 240), "full": (1, 3, 360, 480)}  # CamVid's 360x480 and half of each side
DEFAULT = ["half"]
TINY = (1, 3, 64, 64)
# A training step is forward, loss and backward, without the optimizer.
DIRECTIONS = ["SegNet inference", "SegNet training step", "SegNetBasic inference", "SegNetBasic training step"]
# In float32 a near tie of a pool goes either way now and then, and BatchNorm spreads it.
TOLERANCE = 2e-2
SECONDS = 8.0


def build(variant: str, direction: str, shape: Sequence[int], target: Target) -> Step:
    name, what = direction.split(maxsplit=1)
    torch.manual_seed(0)
    model = getattr(reference, name)(CLASSES)
    if variant == "ours":
        weights = model.state_dict()
        model = getattr(segnet_ext, name)(CLASSES)
        model.load_state_dict(weights)
    layout = layout_of(variant)
    model = model.to(target.device, memory_format=layout).train(what != "inference")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(tuple(shape), generator=generator).to(target.device, memory_format=layout)
    labels = torch.randint(0, CLASSES, (shape[0], *shape[2:]), generator=generator).to(target.device)
    parameters = list(model.parameters())
    run = torch.compile(model) if variant == COMPILED else model

    def inference() -> Sequence[Tensor]:
        with torch.inference_mode(), target.autocast():
            return [run(x)]

    def loss() -> Tensor:
        with target.autocast():
            return F.cross_entropy(run(x), labels)

    if what == "inference":
        return Step(inference)
    return Step(lambda: torch.autograd.grad(loss(), parameters)[-2:], loss, parameters)


def test_models(run_case):
    run_case()
