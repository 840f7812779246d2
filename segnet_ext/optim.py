"""The optimisers and the learning rate schedules that SegNet is trained with."""

from __future__ import annotations

from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR

SCHEDULES = ("constant", "poly", "step")

# fused=True below: one pass over the parameters, where torch's default makes one for each operation, with which a step
# of AdamW takes five times as long on SegNet's 29 million parameters (one CPU core).


def sgd(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> optim.SGD:
    """SGD that decays the convolutions' weights and BatchNorm's scales, not the biases, as the authors' solver does."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (plain if name.endswith("bias") else decayed).append(parameter)
    return optim.SGD(_groups(decayed, plain, weight_decay), lr=lr, momentum=momentum, fused=True)


def adamw(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> optim.AdamW:
    """AdamW that decays the convolutions' weights alone, as is usual with it; ``momentum`` is its first beta."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return optim.AdamW(_groups(decayed, plain, weight_decay), lr=lr, betas=(momentum, 0.999), fused=True)


OPTIMIZERS = {"sgd": sgd, "adamw": adamw}


def _groups(decayed: list[nn.Parameter], plain: list[nn.Parameter], weight_decay: float) -> list[dict]:
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def schedule(
    optimizer: optim.Optimizer,
    kind: str,
    steps: int,
    power: float = 0.9,
    drop_every: int = 1,
    drop_factor: float = 0.1,
    warmup: int = 0,
) -> LambdaLR:
    """The learning rate as a factor of the optimiser's, after each of its steps; call its ``step()`` then.

    Each factor is computed from the number of steps alone, so a run that is resumed has the same ones.

    Args:
        kind: ``constant``; ``poly``: (1 - step / steps) ** power, as Caffe's; ``step``: ``drop_factor`` to the power
            of step // drop_every.
        steps: steps of the whole run, for ``poly``.
        power: of ``poly``.
        drop_every: steps between two drops of ``step``.
        drop_factor: of ``step``.
        warmup: steps over which the factor rises linearly from 1 / (warmup + 1), with each kind.

    Raises:
        ValueError: ``kind`` is none of the three.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"schedule: kind must be one of {', '.join(SCHEDULES)}, got {kind!r}")

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / (warmup + 1))
        if kind == "poly":
            return rise * max(0.0, 1 - step / steps) ** power
        if kind == "step":
            return rise * drop_factor ** (step // drop_every)
        return rise

    return LambdaLR(optimizer, factor)
