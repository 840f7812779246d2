"""The loss, the class weights, the optimiser, and runs that go on bit by bit."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import segnet_ext
from segnet_ext.data import CAMVID, ClassSet, Loader, MemoryDataset, camvid_dataset, synthetic_dataset
from segnet_ext.data.images import normalize
from segnet_ext.errors import InputError
from segnet_ext.training import TrainingRun, evaluate, median_frequency_weights, segmentation_loss, sgd


@pytest.fixture(autouse=True)
def _one_thread(thread_count):
    torch.set_num_threads(1)


def make_run(seed: int = 0, amp: bool = False, dropout: float = 0.5, lr: float = 0.05) -> TrainingRun:
    torch.manual_seed(seed)
    model = segnet_ext.SegNetBasic(len(CAMVID), dropout=dropout)
    train, val = synthetic_dataset(5, (16, 24), seed=1), synthetic_dataset(2, (16, 24), seed=2)
    optimizer = sgd(model, lr, momentum=0.9, weight_decay=5e-4)
    return TrainingRun(model, optimizer, Loader(train, 2, seed), Loader(val, 2), median_frequency_weights(train), amp)


# ---- loss


def test_loss_is_divided_by_the_number_of_pixels():
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float32)
    target = torch.randint(0, 4, (2, 4, 5))  # 3 is void
    weights = torch.tensor([0.5, 2.0, 1.0])
    expected, pixels = 0.0, 0
    for n, y, x in np.ndindex(*target.shape):
        label = target[n, y, x].item()
        if label != 3:
            expected -= (weights[label] * logits[n, :, y, x].log_softmax(0)[label]).item()
            pixels += 1
    assert segmentation_loss(logits, target, weights).item() == pytest.approx(expected / pixels, rel=1e-5)
    by_weight = F.cross_entropy(logits, target, weights, ignore_index=3)
    assert segmentation_loss(logits, target, weights).item() != pytest.approx(by_weight.item(), rel=1e-3)


def test_loss_of_void_alone_is_zero():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 2, 2), 3), torch.ones(3))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


# ---- class weights


def test_median_frequency_by_hand():
    classes = ClassSet(("a", "b", "c", "nowhere"), ((0, 0, 0),) * 4)
    labels = [
        np.array([[0, 0], [0, 1]], np.uint8),  # a 3, b 1 of 4
        np.array([[0, 4], [2, 2]], np.uint8),  # a 1, c 2 of 4 (void counts as a pixel of the image)
    ]
    dataset = MemoryDataset([np.zeros((2, 2, 3), np.uint8)] * 2, labels, classes)
    # frequencies 4/8, 1/4, 2/4: median 1/2
    assert median_frequency_weights(dataset).tolist() == [1.0, 2.0, 1.0, 0.0]


def test_median_of_an_even_number_of_classes():
    labels = [np.array([[0, 0, 0, 1]], np.uint8)]  # frequencies 3/4 and 1/4: median 1/2
    dataset = MemoryDataset([np.zeros((1, 4, 3), np.uint8)], labels, ClassSet(("a", "b"), ((0, 0, 0),) * 2))
    assert median_frequency_weights(dataset).tolist() == pytest.approx([2 / 3, 2])


def test_labels_void_everywhere_are_refused():
    labels = [np.full((1, 4), 2, np.uint8)]
    dataset = MemoryDataset([np.zeros((1, 4, 3), np.uint8)], labels, ClassSet(("a", "b"), ((0, 0, 0),) * 2))
    with pytest.raises(InputError, match="void everywhere"):
        median_frequency_weights(dataset)


def test_real_camvid_weights():
    folder = os.environ.get("SEGNET_EXT_DATA")
    if not folder:
        pytest.skip("SEGNET_EXT_DATA does not name a folder that holds camvid/")
    weights = median_frequency_weights(camvid_dataset(Path(folder) / "camvid", "train"))
    expected = [0.2793, 0.2017, 4.7865, 0.1490, 1.0, 0.4217, 3.8467, 1.9736, 0.7889, 6.3747, 8.8587]
    assert weights.tolist() == pytest.approx(expected, abs=5e-5)


# ---- optimiser


def test_biases_are_not_decayed():
    model = segnet_ext.SegNetBasic(3)
    decayed, plain = sgd(model, 0.1, 0.9, 5e-4).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (5e-4, 0)
    biases = {id(parameter) for name, parameter in model.named_parameters() if name.endswith("bias")}
    assert {id(parameter) for parameter in plain["params"]} == biases
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


# ---- runs


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
        for images, _ in run.train:
            run.model(normalize(images))
    handle.remove()
    run = make_run(dropout=0.0)
    run.train_epoch()
    assert len(means) == len(run.train)
    torch.testing.assert_close(run.model.encoder.stage1.bn.running_mean, torch.stack(means).mean(0))
    assert run.model.encoder.stage1.bn.momentum == 0.1


def test_resumed_run_is_bit_exact():
    straight = make_run()
    straight.run_epoch()
    weights, state = copy.deepcopy(straight.model.state_dict()), copy.deepcopy(straight.state_dict())
    straight.run_epoch()
    straight.run_epoch()

    resumed = make_run(seed=0)
    torch.manual_seed(99)  # dropout draws from the global generator, which must be put back
    resumed.model.load_state_dict(weights)
    resumed.load_state_dict(state)
    resumed.run_epoch()
    resumed.run_epoch()

    for key, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    figures = [(result.loss, result.mean_iou) for result in straight.history]
    assert figures == [(result.loss, result.mean_iou) for result in resumed.history]


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
    run = make_run(amp=True, dropout=0.0)
    first, *_, last = (run.run_epoch().loss for _ in range(4))
    assert last < first
    assert all(parameter.dtype == torch.float32 for parameter in run.model.parameters())


def test_diverging_loss_is_reported():
    run = make_run(lr=1e30)
    with pytest.raises(InputError, match=r"the loss became (nan|inf) in epoch 1; a lower learning rate may help"):
        for _ in range(5):
            run.train_epoch()
