"""What a model's own input is made of, where that is not what ``segnet_ext.data.images.normalize`` gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class InputForm:
    """``own[c] = scale[c] * given[order[c]] + shift[c]``: channels put in order, scaled and shifted.

    A model whose first convolution pads with zeros cannot take the shift into its weights: a zero of its own input is
    not a zero of ours. So a converted model does this first.
    """

    order: tuple[int, ...]
    scale: tuple[float, ...]
    shift: tuple[float, ...]

    def __post_init__(self) -> None:
        n = len(self.order)
        if sorted(self.order) != list(range(n)) or len(self.scale) != n or len(self.shift) != n:
            raise ValueError(f"InputForm: order, scale and shift must be of the same channels, got {self}")

    def module(self) -> PrepareInput:
        return PrepareInput(self)


class PrepareInput(nn.Module):
    """An :class:`InputForm` as the first layer of a model. It has no parameters and leaves ``state_dict`` as it is."""

    scale: Tensor
    shift: Tensor

    def __init__(self, form: InputForm) -> None:
        super().__init__()
        self.order = list(form.order)
        for name, values in (("scale", form.scale), ("shift", form.shift)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], of the same dtype."""
        if self.order != sorted(self.order):
            x = x[:, self.order]
        return (x * self.scale + self.shift).to(x.dtype)

    def extra_repr(self) -> str:
        return f"order={self.order}, scale={self.scale.flatten().tolist()}, shift={self.shift.flatten().tolist()}"
