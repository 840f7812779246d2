"""One of two processes that train together; started by test_distributed.py, not collected.

Arguments: rank, a file to meet at, a file for the results.
"""

import copy
import sys
from datetime import timedelta
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from segnet_ext import SegNet, SegNetBasic
from segnet_ext.data import CAMVID, Augmentation, Loader, MemoryDataset, synthetic_dataset
from segnet_ext.distributed import ALONE, Processes, leave
from segnet_ext.models import segnet
from segnet_ext.nn import BNReLUMaxPool2d, bn_relu_conv2d, convert_sync_batchnorm
from segnet_ext.optim import sgd
from segnet_ext.training import TrainingRun

# How many of seven images a process has of three batches.
SPLITS = ((4, 3), (7, 0), (1, 6))


class Layers(nn.Module):
    """A BatchNorm fused with a pool, one fused with a convolution, and one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BNReLUMaxPool2d(5, ceil_mode=True)
        self.bn = nn.BatchNorm2d(5, momentum=None)
        self.conv = nn.Conv2d(5, 6, 3, padding=1)
        self.last = nn.BatchNorm2d(6, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled, codes = self.pool(x)
        return self.last(bn_relu_conv2d(self.bn, self.conv, pooled, codes, x.shape[-2:]))


def layers() -> tuple[Layers, torch.Tensor, torch.Tensor]:
    """The layers, batches for them, and weights for a loss that is not the same for all images."""
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    model = Layers().double()
    for parameter in model.parameters():
        parameter.data.normal_(0.5, generator=generator)
    maps = 3 + torch.randn(len(SPLITS), 7, 5, 9, 11, dtype=torch.float64, generator=generator)
    return model, maps, torch.randn(7, 6, 9, 11, dtype=torch.float64, generator=generator)


def layers_loss(model: nn.Module, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (F.softplus(model(x)) * weights).sum()


class Double(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double()


def narrow_segnet() -> SegNet:
    """SegNet with an eighth of its channels."""
    widths = {
        name: {stage: tuple(width // 8 for width in widths) for stage, widths in getattr(segnet, name).items()}
        for name in ("ENCODER", "DECODER")
    }
    with mock.patch.multiple(segnet, **widths):
        return SegNet(len(CAMVID))


def noise(count: int) -> MemoryDataset:
    """Noise with the labels of scenes, which themselves are flat in places: there a pool has ties, which rounding would
    break."""
    scenes = synthetic_dataset(count, (32, 40), seed=count)
    images = np.random.default_rng(count).integers(0, 256, (count, 32, 40, 3), np.uint8)
    return MemoryDataset(list(images), scenes.labels, scenes.classes)


def training_run(
    name: str, processes: Processes = ALONE, dropout: float = 0.0, grad_checkpointing: bool = False, **more
) -> TrainingRun:
    """A run in float64 on five images in batches of four: the last has none for the second process."""
    torch.manual_seed(0)
    basic = name not in ("segnet", "checkpointed")
    model = SegNetBasic(len(CAMVID), dropout=dropout, width=16) if basic else narrow_segnet()
    model.set_grad_checkpointing(grad_checkpointing)
    model.input_form = Double()
    model.double()
    if processes.rank > 0:
        torch.manual_seed(processes.rank)
    loader = Loader(noise(5), 4, 0, augmentation=Augmentation(color=0.2), processes=processes)
    optimizer = sgd(model, 0.01, momentum=0.9, weight_decay=5e-4)
    weights = torch.linspace(0.5, 2, len(CAMVID))
    return TrainingRun(model, optimizer, loader, Loader(noise(3), 4, processes=processes), weights, **more)


RUNS = {
    "segnet-basic": {},
    "recipe": {"accumulate": 2, "ema": 0.9, "loss_by": "weights"},
    "segnet": {},
    "checkpointed": {"grad_checkpointing": True},
}


def outcome(run: TrainingRun) -> dict:
    """Weights and statistics after two epochs, and the figures of the second."""
    run.run_epoch()
    result = run.run_epoch()
    figures = {name: getattr(result, name) for name in ("loss", "global_accuracy", "class_average", "mean_iou")}
    return {"weights": run.evaluated.state_dict(), "figures": figures}


def main(rank: int, meeting: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=timedelta(minutes=5)
    )
    processes = Processes(rank, 2)
    torch.save(
        {
            "layers": synchronised_layers(rank),
            "runs": {name: outcome(training_run(name, processes, **more)) for name, more in RUNS.items()},
            "resumed": resumed(processes),
        },
        results,
    )
    dist.destroy_process_group()


def synchronised_layers(rank: int) -> dict:
    model, maps, weights = layers()
    model = convert_sync_batchnorm(model)
    gradients = []
    for x, split in zip(maps, SPLITS, strict=True):
        mine = x.split(split)[rank].requires_grad_()
        layers_loss(model, mine, weights.split(split)[rank]).backward()
        gradients.append(mine.grad)
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
    parameters = {name: parameter.grad for name, parameter in model.named_parameters()}
    with torch.no_grad():
        evaluated = model.eval()(maps[0])
    return {"inputs": gradients, "parameters": parameters, "state": model.state_dict(), "evaluated": evaluated}


def resumed(processes: Processes) -> dict:
    """Weights of a run with dropout, and of the same one stopped after a step and gone on with in another."""

    class Stopped(Exception):
        pass

    def stop(images: int, loss: float) -> None:
        raise Stopped

    straight = training_run("dropout", processes, dropout=0.5)
    straight.run_epoch()
    stopped = training_run("dropout", processes, dropout=0.5)
    try:
        stopped.train_epoch(stop)
    except Stopped:
        weights, state = copy.deepcopy(stopped.evaluated.state_dict()), copy.deepcopy(stopped.state_dict())
    other = training_run("dropout", processes, dropout=0.5)
    torch.manual_seed(99)
    other.evaluated.load_state_dict(weights)
    other.load_state_dict(state)
    other.run_epoch()
    random = [entry["cpu"] for entry in state["rng"]]
    return {"straight": straight.model.state_dict(), "resumed": other.model.state_dict(), "random": random}


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
    leave(0)
