"""Training steps, epochs, and runs that go on bit by bit."""

import copy

import pytest
import torch

import segnet_ext
from segnet_ext.data import CAMVID, Augmentation, Loader, synthetic_dataset
from segnet_ext.data.images import normalize
from segnet_ext.errors import InputError
from segnet_ext.loss import median_frequency_weights
from segnet_ext.optim import schedule, sgd
from segnet_ext.training import TrainingRun, evaluate, exponential_average


@pytest.fixture(autouse=True)
def _one_thread(thread_count):
    torch.set_num_threads(1)


def make_run(seed: int = 0, dropout: float = 0.5, lr: float = 0.05, batch: int = 2, kind="", **more) -> TrainingRun:
    torch.manual_seed(seed)
    model = segnet_ext.SegNetBasic(len(CAMVID), dropout=dropout)
    train, val = synthetic_dataset(5, (16, 24), seed=1), synthetic_dataset(2, (16, 24), seed=2)
    optimizer = sgd(model, lr, momentum=0.9, weight_decay=5e-4)
    loader = Loader(train, batch, seed, augmentation=Augmentation(scale=(0.7, 1.4), color=0.2))
    scheduler = schedule(optimizer, kind, 9, drop_every=4, warmup=3) if kind else None
    weights = median_frequency_weights(train)
    return TrainingRun(model, optimizer, loader, Loader(val, 2), weights, scheduler=scheduler, **more)


def test_running_average():
    model = torch.nn.Linear(1, 1, bias=False)
    average = exponential_average(model, decay=0.5)
    expected = None
    for step, value in enumerate(torch.randn(12).tolist()):
        torch.nn.init.constant_(model.weight, value)
        average.update_parameters(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_training_lowers_the_loss():
    run = make_run(dropout=0.0)
    losses = [run.run_epoch().loss for _ in range(6)]
    assert losses[-1] < 0.8 * losses[0]
    assert [result.epoch for result in run.history] == [1, 2, 3, 4, 5, 6]


def test_statistics_are_those_of_the_trained_weights():
    run = make_run(dropout=0.0)
    run.train_epoch()
    means = []
    conv = run.model.encoder.stage1.conv
    handle = conv.register_forward_hook(lambda _module, _inputs, output: means.append(output.mean((0, 2, 3))))
    run.model.train()
    with torch.no_grad():
        for images, _ in Loader(run.train.dataset, 2, seed=0):  # epoch 0 again, with the images as they are stored
            run.model(normalize(images))
    handle.remove()
    run = make_run(dropout=0.0)
    run.train_epoch()
    assert len(means) == len(run.train)
    torch.testing.assert_close(run.model.encoder.stage1.bn.running_mean, torch.stack(means).mean(0))
    assert run.model.encoder.stage1.bn.momentum == 0.1


@pytest.mark.parametrize(
    "more",
    [{}, {"kind": "poly", "accumulate": 2, "ema": 0.9, "loss_by": "weights", "batch": 4}, {"kind": "step"}],
    ids=["plain", "everything", "step"],
)
def test_resumed_run_is_bit_exact(more):
    straight = make_run(**more)
    straight.run_epoch()
    weights, state = copy.deepcopy(straight.evaluated.state_dict()), copy.deepcopy(straight.state_dict())
    straight.run_epoch()
    straight.run_epoch()

    resumed = make_run(seed=0, **more)
    torch.manual_seed(99)  # dropout draws from the global generator, which must be put back
    resumed.evaluated.load_state_dict(weights)
    resumed.load_state_dict(state)
    resumed.run_epoch()
    resumed.run_epoch()

    for ours, theirs in ((straight.model, resumed.model), (straight.evaluated, resumed.evaluated)):
        for key, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[key]), key
    figures = [(result.loss, result.lr, result.mean_iou) for result in straight.history]
    assert figures == [(result.loss, result.lr, result.mean_iou) for result in resumed.history]


def test_accumulated_step_is_that_of_the_whole_batch():
    data = synthetic_dataset(3, (16, 24))
    steps = []
    for parts in (1, 2, 3):
        torch.manual_seed(0)
        # No BatchNorm, whose statistics would be those of each part.
        model = torch.nn.Conv2d(3, len(CAMVID), 3, padding=1)
        loader = Loader(data, 3)
        run = TrainingRun(model, sgd(model, 0.1, 0, 0), loader, loader, torch.rand(len(CAMVID)), accumulate=parts)
        steps.append((run.step(*next(iter(loader))), model.weight.detach()))
    for loss, weight in steps[1:]:
        assert loss == pytest.approx(steps[0][0], rel=1e-5)
        torch.testing.assert_close(weight, steps[0][1])


def test_the_running_average_is_what_is_evaluated():
    run = make_run(dropout=0.0, ema=0.9)
    before = copy.deepcopy(run.evaluated.state_dict())
    result = run.run_epoch()
    assert result.mean_iou == evaluate(run.evaluated, run.val).mean_iou
    weight = "encoder.stage1.conv.weight"
    assert not torch.equal(run.model.state_dict()[weight], run.evaluated.state_dict()[weight])
    assert not torch.equal(before[weight], run.evaluated.state_dict()[weight])


def test_evaluation_changes_nothing():
    run = make_run()
    run.model.train()
    before, random = copy.deepcopy(run.model.state_dict()), torch.get_rng_state()
    first, second = (evaluate(run.model, run.val) for _ in range(2))
    assert first.mean_iou == second.mean_iou
    assert run.model.training and torch.equal(random, torch.get_rng_state())
    for key, value in run.model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_bfloat16_autocast_trains():
    run = make_run(amp=torch.bfloat16, dropout=0.0)
    first, *_, last = (run.run_epoch().loss for _ in range(4))
    assert last < first
    assert all(parameter.dtype == torch.float32 for parameter in run.model.parameters())


def test_diverging_loss_is_reported():
    run = make_run(lr=1e30)
    with pytest.raises(InputError, match=r"the loss became (nan|inf) in epoch 1; a lower learning rate may help"):
        for _ in range(5):
            run.train_epoch()
