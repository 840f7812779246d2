"""Models with random weights and statistics, and one way to run them, shared by the model tests."""

import pytest
import torch
from torch import nn

import segnet_ext
from segnet_ext import reference
from segnet_ext.models import segnet

MODELS = {
    "SegNet": (segnet_ext.SegNet, reference.SegNet),
    "SegNetBasic": (segnet_ext.SegNetBasic, reference.SegNetBasic),
}


def thin_vgg16(patch: pytest.MonkeyPatch) -> None:
    """Until ``patch`` is undone, models on VGG16 are built with a quarter of the channels: seconds become tenths."""
    for table in (segnet.ENCODER, segnet.DECODER, reference.ENCODER, reference.DECODER):
        for stage, widths in list(table.items()):
            patch.setitem(table, stage, tuple(width // 4 for width in widths))


def randomise(model: nn.Module, seed: int) -> None:
    """Random weights, biases, BatchNorm parameters and running statistics, at scales that keep activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        uniform = 0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        normal = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.copy_(uniform)
        elif tensor.dim() == 1:
            tensor.copy_(0.2 * normal)
        else:
            tensor.copy_(normal * (2 / tensor[0].numel()) ** 0.5)


def pair(name: str, seed: int, dtype: torch.dtype = torch.float64, **arguments) -> tuple[nn.Module, nn.Module]:
    """The fast model and the reference with the same random content."""
    fast, plain = (cls(num_classes=3, **arguments).to(dtype) for cls in MODELS[name])
    randomise(plain, seed)
    fast.load_state_dict(plain.state_dict())
    return fast, plain


def results(model: nn.Module, x: torch.Tensor, projection: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, input gradient and every parameter's gradient of sum(output * projection), and the buffers afterwards."""
    x = x.clone().requires_grad_()
    output = model(x)
    gradients = torch.autograd.grad((output * projection).sum(), [x, *model.parameters()])
    names = ["input", *(name for name, _ in model.named_parameters())]
    found = {f"grad {name}": gradient for name, gradient in zip(names, gradients, strict=True)}
    return {"output": output.detach(), **found, **{name: buffer.clone() for name, buffer in model.named_buffers()}}


def assert_agree(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], training: bool) -> None:
    """Two ``results`` in float64 have the same entries, equal to 1e-9 of each one's scale."""
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert actual[key].shape == value.shape and actual[key].dtype == value.dtype, key
        error = float((actual[key] - value).abs().max())
        assert error <= 1e-9 * scale(key, expected, training), f"{key}: error {error:.3g}"


def scale(name: str, expected: dict[str, torch.Tensor], training: bool) -> float:
    """The magnitude that an error in ``expected[name]`` is measured against: its largest element.

    A conv bias before a BatchNorm that trains has the gradient 0 in exact arithmetic, so what is computed is rounding
    alone; it is measured against the gradient of the same conv's weight.
    """
    largest = float(expected[name].abs().max())
    if training and name.startswith("grad ") and name.endswith(".bias"):
        largest = max(largest, float(expected[name.removesuffix("bias") + "weight"].abs().max()))
    return largest
