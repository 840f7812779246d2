"""The specification against torch's own modules and against examples worked by hand."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from cases import (
    FLOATS,
    HALVES,
    POOL_CASES,
    assert_equal,
    codes_of_indices,
    id_of,
    normals,
    pack,
    pooled_size,
    random_bytes,
    random_codes,
    spaced,
    torch_pool,
)
from torch import nn

from segnet_ext import ops, reference

OPS = [
    "bn_relu_max_pool2d",
    "codes_to_indices",
    "indices_to_codes",
    "max_pool2d_with_codes",
    "max_unpool2d_conv2d",
]


@pytest.mark.parametrize("name", OPS)
def test_signature_is_that_of_the_op(name):
    ours = inspect.signature(getattr(ops, name)).parameters.values()
    plain = inspect.signature(getattr(reference, name)).parameters.values()
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in plain]


@pytest.mark.parametrize("model, size", [("SegNet", 32), ("SegNetBasic", 16)])
def test_models_use_no_op_of_ours(model, size, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the reference called segnet_ext.ops")

    for name in OPS:
        monkeypatch.setattr(ops, name, refuse)
    with torch.no_grad():
        output = getattr(reference, model)(num_classes=2).eval()(torch.randn(1, 3, size, size))
    assert output.shape == (1, 2, size, size)


# -------------------------------------------------------------------------------------------------- codes and indices


def test_codes_by_hand():
    # Five channels, one 2x2 window each, winners at pixels 0, 1, 2, 3 and 2.
    x = torch.zeros(1, 5, 2, 2)
    for channel, pixel in enumerate([0, 1, 2, 3, 2]):
        x[0, channel, pixel // 2, pixel % 2] = 1
    output, codes = reference.max_pool2d_with_codes(x)
    assert output.flatten().tolist() == [1.0] * 5
    assert codes.dtype == torch.uint8 and codes.shape == (1, 1, 1, 2)
    assert codes.flatten().tolist() == [0b11_10_01_00, 0b00_00_00_10]
    assert reference.codes_to_indices(codes, x.shape).flatten().tolist() == [0, 1, 2, 3, 2]


def test_a_code_past_the_edge_is_clipped():
    # A 3x3 map pooled in ceil mode: window (1, 1) holds the one pixel 8, window (0, 1) pixels 2 and 5.
    codes = pack(torch.full((1, 1, 2, 2), 3))
    assert reference.codes_to_indices(codes, (1, 1, 3, 3)).flatten().tolist() == [4, 5, 7, 8]


@pytest.mark.parametrize("shape, ceil_mode", POOL_CASES, ids=id_of)
def test_codes_and_indices_are_inverse(shape, ceil_mode):
    _, indices = F.max_pool2d(normals(*shape), 2, 2, ceil_mode=ceil_mode, return_indices=True)
    codes = reference.indices_to_codes(indices, shape)
    assert_equal(codes, codes_of_indices(indices, shape[3]))
    assert_equal(reference.indices_to_codes(indices, shape[2:]), codes)
    assert_equal(reference.codes_to_indices(codes, shape), indices)


@pytest.mark.parametrize("shape, ceil_mode", POOL_CASES, ids=id_of)
def test_any_bytes_stay_inside_their_windows(shape, ceil_mode):
    n, c, h, w = shape
    oh, ow = pooled_size(h, ceil_mode), pooled_size(w, ceil_mode)
    indices = reference.codes_to_indices(random_bytes(n, c, oh, ow), shape)
    assert indices.shape == (n, c, oh, ow)
    rows, cols = indices // w, indices % w
    assert ((rows >= 0) & (rows < h)).all()
    assert_equal(rows // 2, torch.arange(oh)[:, None].expand(n, c, oh, ow))
    assert_equal(cols // 2, torch.arange(ow).expand(n, c, oh, ow))


@pytest.mark.parametrize(
    "codes, input_size, error, message",
    [
        (torch.zeros(1, 2, 2, 1, dtype=torch.int64), (1, 4, 4, 4), TypeError, "codes must be uint8"),
        (torch.zeros(1, 2, 2, 1, dtype=torch.uint8), (4, 4), ValueError, r"input_size must be \(N, C, H, W\)"),
        (torch.zeros(1, 2, 2, 1, dtype=torch.uint8), (1, 5, 4, 4), ValueError, "codes must be"),
        (torch.zeros(1, 2, 2, 1, dtype=torch.uint8), (1, 4, 6, 4), ValueError, "codes must be"),
        (torch.zeros(2, 2, 1, dtype=torch.uint8), (1, 4, 4, 4), ValueError, "codes must be"),
    ],
)
def test_bad_codes(codes, input_size, error, message):
    with pytest.raises(error, match=f"codes_to_indices: {message}"):
        reference.codes_to_indices(codes, input_size)


# ---------------------------------------------------------------------------------------------------------------- pool


def test_pool_refuses_one_value_a_channel_in_training():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        reference.bn_relu_max_pool2d(torch.randn(1, 3, 1, 1), training=True, ceil_mode=True)


@pytest.mark.parametrize(
    "shape, ceil_mode, training",
    [(*case, False) for case in POOL_CASES] + [(*case, True) for case in POOL_CASES if case[0] != (1, 1, 1, 1)],
    ids=id_of,
)
def test_pool_is_batch_norm_relu_max_pool(shape, ceil_mode, training):
    x = normals(*shape)
    batch_norm = nn.BatchNorm2d(shape[1], dtype=torch.float64).train(training)
    for seed, tensor in enumerate(
        (batch_norm.weight.data, batch_norm.bias.data, batch_norm.running_mean, batch_norm.running_var)
    ):
        tensor.copy_(normals(shape[1], seed=seed + 1).abs() + 0.1)
    mean, var = batch_norm.running_mean.clone(), batch_norm.running_var.clone()

    output, codes = reference.bn_relu_max_pool2d(
        x, batch_norm.weight, batch_norm.bias, mean, var, training, ceil_mode=ceil_mode
    )
    expected, expected_codes = torch_pool(F.relu(batch_norm(x)), ceil_mode)
    assert_equal(output, expected)
    assert_equal(codes, expected_codes)
    assert_equal(mean, batch_norm.running_mean)
    assert_equal(var, batch_norm.running_var)


@pytest.mark.parametrize("dtype", HALVES, ids=id_of)
@pytest.mark.parametrize("parameter_dtype", ["own", "float32"])
def test_pool_in_half_precision(dtype, parameter_dtype):
    of = dtype if parameter_dtype == "own" else torch.float32
    weight, bias, mean, var = (normals(6, seed=i).abs().add(0.5).to(of) for i in range(4))
    output, codes = reference.bn_relu_max_pool2d(normals(2, 6, 7, 5, dtype=dtype), weight, bias, mean, var)
    assert output.dtype == dtype and codes.dtype == torch.uint8


def test_ties_and_nan():
    x = torch.tensor([[1.0, 1.0, 2.0, float("nan")], [1.0, 1.0, float("nan"), 2.0]])[None, None]
    output, codes = reference.max_pool2d_with_codes(x)
    assert output[0, 0, 0, 0] == 1 and output[0, 0, 0, 1].isnan()
    assert codes.flatten()[0] == 0  # the first of four equal pixels
    assert codes.flatten()[1] in (1, 2)  # one of the two NaN: torch's choice


# -------------------------------------------------------------------------------------------------------------- unpool


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("size", [(7, 9), (8, 10), (9, 11), (7, 11), None], ids=str)
@pytest.mark.parametrize("relu", [False, True])
def test_unpool_is_max_unpool_then_conv(kernel, size, relu):
    h, w = size or (8, 10)
    x = normals(2, 5, 4, 5)
    codes = random_codes(2, 5, 4, 5)
    weight, bias = normals(3, 5, kernel, kernel, seed=1), normals(3, seed=2)
    output = reference.max_unpool2d_conv2d(x, codes, weight, bias, size, relu)

    unpooled = torch.zeros(2, 5, h, w, dtype=torch.float64)
    for n in range(2):
        for c in range(5):
            for i in range(4):
                for j in range(5):
                    code = int(codes[n, i, j, c // 4]) >> 2 * (c % 4) & 3
                    unpooled[n, c, min(2 * i + code // 2, h - 1), min(2 * j + code % 2, w - 1)] = x[n, c, i, j]
    expected = F.conv2d(unpooled, weight, bias, padding=kernel // 2)
    assert_equal(output, F.relu(expected) if relu else expected)


def test_unpool_takes_a_four_element_size_and_no_bias():
    x, codes, weight = normals(2, 5, 4, 5), random_codes(2, 5, 4, 5), normals(3, 5, 3, 3, seed=1)
    output = reference.max_unpool2d_conv2d(x, codes, weight, output_size=torch.Size([2, 5, 7, 9]))
    assert_equal(output, reference.max_unpool2d_conv2d(x, codes, weight, torch.zeros(3).double(), (7, 9)))


@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
def test_unpool_of_an_empty_batch(dtype):
    x = torch.zeros(0, 5, 4, 5, dtype=dtype, requires_grad=True)
    weight = torch.ones(3, 5, 3, 3, dtype=dtype, requires_grad=True)
    output = reference.max_unpool2d_conv2d(x, random_codes(0, 5, 4, 5), weight)
    assert output.shape == (0, 3, 8, 10) and output.dtype == dtype
    output.sum().backward()
    assert not weight.grad.any()


@pytest.mark.parametrize("dtype", HALVES, ids=id_of)
def test_unpool_in_half_precision(dtype):
    x, weight = normals(2, 5, 4, 5, dtype=dtype), normals(3, 5, 3, 3, seed=1, dtype=dtype)
    assert reference.max_unpool2d_conv2d(x, random_codes(2, 5, 4, 5), weight).dtype == dtype


@pytest.mark.parametrize("size", [(6, 8), (8, 12), (10, 10)])
def test_impossible_output_size(size):
    with pytest.raises(ValueError):
        reference.max_unpool2d_conv2d(
            normals(2, 5, 4, 5), random_codes(2, 5, 4, 5), normals(3, 5, 3, 3), output_size=size
        )


def test_even_kernel():
    with pytest.raises(ValueError, match="odd k"):
        reference.max_unpool2d_conv2d(normals(2, 5, 4, 5), random_codes(2, 5, 4, 5), normals(3, 5, 2, 2))


@pytest.mark.parametrize("training", [False, True])
def test_gradients(training):
    x, ones = spaced(2, 3, 5, 4).requires_grad_(), torch.ones(3, dtype=torch.float64)
    weight, bias = normals(3, seed=1).requires_grad_(), normals(3, seed=2).requires_grad_()
    kernel = normals(2, 3, 3, 3, seed=3).requires_grad_()

    def function(x, weight, bias, kernel):
        output, codes = reference.bn_relu_max_pool2d(
            x, weight, bias, None if training else 0 * ones, None if training else ones, training, ceil_mode=True
        )
        return reference.max_unpool2d_conv2d(output, codes, kernel, output_size=x.shape[-2:])

    assert torch.autograd.gradcheck(function, (x, weight, bias, kernel))
