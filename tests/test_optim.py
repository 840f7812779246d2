"""Which parameters are decayed, and the learning rate over a run."""

import pytest
import torch

import segnet_ext
from segnet_ext.optim import adamw, schedule, sgd


def test_sgd_does_not_decay_biases():
    model = segnet_ext.SegNetBasic(3)
    decayed, plain = sgd(model, 0.1, 0.9, 5e-4).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (5e-4, 0)
    biases = {id(parameter) for name, parameter in model.named_parameters() if name.endswith("bias")}
    assert {id(parameter) for parameter in plain["params"]} == biases
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_adamw_decays_convolutions_alone():
    model = segnet_ext.SegNetBasic(3)
    decayed, plain = adamw(model, 1e-3, 0.8, 0.01).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"], decayed["betas"]) == (0.01, 0, (0.8, 0.999))
    convolutions = {id(parameter) for parameter in model.parameters() if parameter.ndim == 4}
    assert {id(parameter) for parameter in decayed["params"]} == convolutions
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    "kind, more, expected",
    [
        ("constant", {}, [2.0] * 7),
        ("constant", {"warmup": 3}, [0.5, 1.0, 1.5, 2, 2, 2, 2]),
        ("poly", {"power": 2.0}, [2.0, 1.28, 0.72, 0.32, 0.08, 0, 0]),
        ("step", {"drop_every": 2, "drop_factor": 0.5}, [2, 2, 1, 1, 0.5, 0.5, 0.25]),
    ],
)
def test_schedules(kind, more, expected):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule(optimizer, kind, steps=5, **more)
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(expected)


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="kind must be one of constant, poly, step, got 'cosine'"):
        schedule(sgd(segnet_ext.SegNetBasic(2), 1, 0, 0), "cosine", 5)
