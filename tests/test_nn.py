"""The modules against nn.BatchNorm2d and nn.Conv2d, whose bookkeeping they inherit."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from cases import assert_equal, normals, random_codes, torch_pool
from tolerances import assert_close
from torch import nn

from segnet_ext.nn import BNReLUMaxPool2d, MaxUnpoolConv2d


def batch_norm_pair(**arguments) -> tuple[BNReLUMaxPool2d, nn.BatchNorm2d]:
    plain = nn.BatchNorm2d(6, dtype=torch.float64, **arguments)
    if plain.affine:
        plain.weight.data.copy_(normals(6, seed=1))
        plain.bias.data.copy_(normals(6, seed=2))
    fused = BNReLUMaxPool2d(6, dtype=torch.float64, ceil_mode=True, **arguments)
    fused.load_state_dict(plain.state_dict())
    return fused, plain


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"momentum": 0.3, "eps": 1e-2},
        {"momentum": None},
        {"track_running_stats": False},
        {"affine": False},
        {"affine": False, "track_running_stats": False},
    ],
    ids=str,
)
def test_follows_batch_norm_through_training_and_evaluation(arguments):
    fused, plain = batch_norm_pair(**arguments)
    for step, training in enumerate([True, True, False, True, False]):
        fused.train(training)
        plain.train(training)
        ours, theirs = (normals(3, 6, 5, 7, seed=10 + step).requires_grad_() for _ in range(2))
        output, codes = fused(ours)
        expected, expected_codes = torch_pool(F.relu(plain(theirs)), ceil_mode=True)
        assert_close(output, expected)
        assert_equal(codes, expected_codes)
        output.square().sum().backward()
        expected.square().sum().backward()
        assert_close(ours.grad, theirs.grad)
    assert fused.state_dict().keys() == plain.state_dict().keys()
    for name, expected in plain.state_dict().items():
        assert_close(fused.state_dict()[name], expected, torch.float64)
    for (name, parameter), (_, expected) in zip(fused.named_parameters(), plain.named_parameters(), strict=True):
        assert parameter.grad is not None, name
        assert_close(parameter.grad, expected.grad)


def test_untracked_buffers_are_left_alone():
    fused, _ = batch_norm_pair()
    fused.track_running_stats = False
    fused(normals(3, 6, 5, 7))
    assert not fused.running_mean.any() and fused.num_batches_tracked == 0
    output, _ = fused.eval()(normals(3, 6, 5, 7))
    expected = F.batch_norm(normals(3, 6, 5, 7), fused.running_mean, fused.running_var, fused.weight, fused.bias)
    assert_close(output, F.max_pool2d(F.relu(expected), 2, 2, ceil_mode=True))


@pytest.mark.parametrize("ceil_mode, size", [(False, (2, 3)), (True, (3, 4))])
def test_ceil_mode(ceil_mode, size):
    output, codes = BNReLUMaxPool2d(6, ceil_mode=ceil_mode)(torch.randn(2, 6, 5, 7))
    assert output.shape == (2, 6, *size)
    assert codes.shape == (2, *size, 2) and codes.dtype == torch.uint8


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("bias", [True, False])
def test_unpool_conv_has_the_parameters_of_conv2d(kernel_size, bias):
    torch.manual_seed(1)
    fused = MaxUnpoolConv2d(5, 4, kernel_size, bias=bias, dtype=torch.float64)
    torch.manual_seed(1)
    plain = nn.Conv2d(5, 4, kernel_size, padding=kernel_size // 2, bias=bias, dtype=torch.float64)
    assert fused.state_dict().keys() == plain.state_dict().keys()
    for name, expected in plain.state_dict().items():
        assert_equal(fused.state_dict()[name], expected)

    x = normals(2, 5, 6, 8)
    pooled, indices = F.max_pool2d(x, 2, 2, return_indices=True)
    _, codes = torch_pool(x, ceil_mode=False)
    assert_close(fused(pooled, codes), plain(F.max_unpool2d(pooled, indices, 2, 2)))


def test_modules_chain_over_an_odd_size():
    pool, unpool = BNReLUMaxPool2d(5, ceil_mode=True), MaxUnpoolConv2d(5, 4)
    x = torch.randn(2, 5, 7, 9)
    output, codes = pool(x)
    assert unpool(output, codes, x.shape[-2:]).shape == (2, 4, 7, 9)
    assert unpool(output, codes, x.shape).shape == (2, 4, 7, 9)
    assert unpool(output, codes).shape == (2, 4, 8, 10)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_compute_the_same(copied):
    pool, unpool = BNReLUMaxPool2d(5, ceil_mode=True).eval(), MaxUnpoolConv2d(5, 4)
    x = torch.randn(2, 5, 6, 8)
    output, codes = pool(x)
    assert_equal(copied(pool)(x)[0], output)
    assert_equal(copied(unpool)(output, codes), unpool(output, codes))


def test_repr_shows_the_arguments():
    assert "6, eps=1e-05, momentum=0.1" in repr(BNReLUMaxPool2d(6))
    assert repr(BNReLUMaxPool2d(6, ceil_mode=True)).endswith("ceil_mode=True)")
    assert repr(MaxUnpoolConv2d(5, 4, 7)) == "MaxUnpoolConv2d(5, 4, kernel_size=7)"
    assert repr(MaxUnpoolConv2d(5, 4, bias=False)) == "MaxUnpoolConv2d(5, 4, kernel_size=3, bias=False)"


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: BNReLUMaxPool2d(0), "BNReLUMaxPool2d: num_features must be at least 1, got 0"),
        (lambda: MaxUnpoolConv2d(0, 4), "MaxUnpoolConv2d: in_channels must be at least 1, got 0"),
        (lambda: MaxUnpoolConv2d(4, -1), "MaxUnpoolConv2d: out_channels must be at least 1, got -1"),
        (lambda: MaxUnpoolConv2d(4, 4, 2), "MaxUnpoolConv2d: kernel_size must be an odd positive int, got 2"),
        (
            lambda: MaxUnpoolConv2d(4, 4, (3, 3)),
            r"MaxUnpoolConv2d: kernel_size must be an odd positive int, got \(3, 3\)",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_bad_input():
    with pytest.raises(ValueError, match="bn_relu_max_pool2d: "):
        BNReLUMaxPool2d(6)(torch.randn(2, 5, 4, 4))
    with pytest.raises((ValueError, TypeError), match="max_unpool2d_conv2d: "):
        MaxUnpoolConv2d(5, 4)(torch.randn(2, 5, 4, 4), random_codes(2, 9, 4, 4))
