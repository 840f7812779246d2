"""Properties that hold for every shape, drawn by hypothesis, on integer values where all arithmetic is exact."""

import torch
import torch.nn.functional as F
from cases import (
    LAYOUTS,
    assert_channels_last,
    assert_equal,
    assert_exact,
    integers,
    normals,
    pooled_size,
    random_bytes,
    runs_winograd,
    torch_pool,
)
from hypothesis import given
from hypothesis import strategies as st

from segnet_ext import reference
from segnet_ext.ops import (
    bn_relu_max_pool2d,
    codes_to_indices,
    indices_to_codes,
    max_pool2d_with_codes,
    max_unpool2d_conv2d,
)

dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
layouts = st.sampled_from(sorted(LAYOUTS))
channels = st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33, 63, 64, 65, 129]))
seeds = st.integers(0, 2**31)


@st.composite
def pool_cases(draw):
    """(shape, ceil_mode) with an output that is not empty."""
    ceil_mode = draw(st.booleans())
    sides = st.integers(1 if ceil_mode else 2, 19)
    return (draw(st.integers(0, 3)), draw(channels), draw(sides), draw(sides)), ceil_mode


@st.composite
def unpool_cases(draw):
    """(pooled shape, output size, output channels, kernel)."""
    oh, ow = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    size = tuple(2 * o + draw(st.integers(-1, 1)) for o in (oh, ow))
    shape = (draw(st.integers(0, 2)), draw(channels), oh, ow)
    return shape, size, draw(channels), draw(st.sampled_from([1, 3, 5, 7]))


def exact_batch_norm(c, dtype):
    """Parameters for eps=0.25 whose normalised values are small multiples of 0.25; a negative, a zero weight."""
    channel = torch.arange(c)
    weight = torch.tensor([1.0, -2.0, 0.0, 0.5, -1.0])[channel % 5].to(dtype)
    bias = torch.tensor([0.0, 0.5, -0.5])[channel % 3].to(dtype)
    mean = torch.tensor([0.0, 1.0])[channel % 2].to(dtype)
    return weight, bias, mean, torch.full_like(mean, 3.75)


@given(pool_cases(), dtypes, layouts, seeds)
def test_pool_is_torchs(case, dtype, layout, seed):
    shape, ceil_mode = case
    x = LAYOUTS[layout](integers(*shape, seed=seed, dtype=dtype))
    output, codes = max_pool2d_with_codes(x, ceil_mode)
    expected, expected_codes = torch_pool(x, ceil_mode)
    assert_equal(output, expected)
    assert_equal(codes, expected_codes)
    assert_channels_last(output)


@given(pool_cases(), dtypes, layouts, seeds)
def test_fused_pool_is_the_composition(case, dtype, layout, seed):
    shape, ceil_mode = case
    x = LAYOUTS[layout](integers(*shape, seed=seed, dtype=dtype))
    weight, bias, mean, variance = exact_batch_norm(shape[1], dtype)
    output, codes = bn_relu_max_pool2d(x, weight, bias, mean, variance, False, 0.1, 0.25, ceil_mode)
    rectified = F.relu(F.batch_norm(x.double(), *(p.double() for p in (mean, variance, weight, bias)), eps=0.25))
    expected, expected_codes = torch_pool(rectified, ceil_mode)
    assert_equal(output, expected.to(dtype))
    assert_equal(codes, expected_codes)


@given(pool_cases(), seeds)
def test_codes_and_indices_are_each_others_inverse(case, seed):
    shape, ceil_mode = case
    _, codes = max_pool2d_with_codes(integers(*shape, seed=seed), ceil_mode)
    indices = codes_to_indices(codes, shape)
    assert_equal(indices_to_codes(indices, shape), codes)
    assert_equal(indices_to_codes(indices, shape[2:]), codes)


@given(pool_cases(), seeds)
def test_any_bytes_mean_indices_inside_the_window(case, seed):
    (n, c, h, w), ceil_mode = case
    codes = random_bytes(n, c, pooled_size(h, ceil_mode), pooled_size(w, ceil_mode), seed=seed)
    indices = codes_to_indices(codes, (n, c, h, w))
    rows, cols = indices // w, indices % w
    assert bool((rows // 2 == torch.arange(indices.shape[2])[:, None]).all())
    assert bool((cols // 2 == torch.arange(indices.shape[3])).all())
    assert bool((rows < h).all())
    assert_equal(indices, reference.codes_to_indices(codes, (n, c, h, w)))


@given(pool_cases(), seeds)
def test_unpooling_with_an_identity_kernel_puts_the_winners_back(case, seed):
    (n, c, h, w), _ = case
    c = min(c, 33)
    x = integers(n, c, h, w, seed=seed)
    pooled, codes = max_pool2d_with_codes(x, True)
    identity = torch.eye(c, dtype=x.dtype).reshape(c, c, 1, 1)
    restored = max_unpool2d_conv2d(pooled, codes, identity, output_size=(h, w))
    indices = codes_to_indices(codes, x.shape)
    expected = torch.zeros(n, c, h * w, dtype=x.dtype)
    expected.scatter_(2, indices.flatten(2), pooled.flatten(2))
    assert_equal(restored, expected.view(n, c, h, w))


@given(unpool_cases(), dtypes, layouts, st.booleans(), seeds)
def test_unpool_and_conv_is_the_composition(case, dtype, layout, relu, seed):
    shape, size, out_channels, kernel = case
    n, c, oh, ow = shape
    x = LAYOUTS[layout](integers(*shape, low=-1, high=1, seed=seed, dtype=dtype))
    codes = random_bytes(n, c, oh, ow, seed=seed)
    weight = integers(out_channels, c, kernel, kernel, low=-1, high=1, seed=seed + 1)
    bias = integers(out_channels, seed=seed + 2)
    output = max_unpool2d_conv2d(x, codes, weight.to(dtype), bias.to(dtype), size, relu)
    unpooled = torch.zeros(n, c, size[0] * size[1], dtype=torch.float64)
    unpooled.scatter_(2, codes_to_indices(codes, (n, c, *size)).flatten(2), x.double().flatten(2))
    expected = F.conv2d(unpooled.view(n, c, *size), weight, bias, padding=kernel // 2)
    assert_exact(output, (F.relu(expected) if relu else expected).to(dtype), weight)
    assert_channels_last(output)


@given(unpool_cases(), seeds)
def test_gradients_of_unpool_and_conv_are_its_adjoint(case, seed):
    shape, size, out_channels, kernel = case
    n, c, oh, ow = shape
    codes = random_bytes(n, c, oh, ow, seed=seed)
    x = integers(*shape, seed=seed).requires_grad_()
    weight = integers(out_channels, c, kernel, kernel, seed=seed + 1).requires_grad_()
    output = max_unpool2d_conv2d(x, codes, weight, output_size=size)
    gradient = integers(*output.shape, seed=seed + 2)
    grad_x, grad_weight = torch.autograd.grad(output, (x, weight), gradient)
    # The op is linear in either argument, so <A x, g> = <x, A' g>, exactly where integers are summed.
    product = (output.detach() * gradient).sum()
    for terms in (x.detach() * grad_x, weight.detach() * grad_weight):
        rounding = 1e-12 * float(terms.abs().sum()) if runs_winograd(weight) else 0
        torch.testing.assert_close(terms.sum(), product, rtol=0, atol=rounding)


@given(pool_cases(), st.booleans(), seeds)
def test_gradients_of_the_fused_pool(case, training, seed):
    shape, ceil_mode = case
    if training and shape[0] * shape[2] * shape[3] == 1:
        return
    values, c = normals(*shape, seed=seed), shape[1]
    results = []
    for module in (reference, None):
        function = bn_relu_max_pool2d if module is None else module.bn_relu_max_pool2d
        x = values.clone().requires_grad_()
        weight = normals(c, seed=seed + 1).requires_grad_()
        bias = normals(c, seed=seed + 2).requires_grad_()
        mean, variance = torch.zeros(c, dtype=torch.float64), torch.ones(c, dtype=torch.float64)
        output, _ = function(x, weight, bias, mean, variance, training, 0.1, 1e-3, ceil_mode)
        gradients = torch.autograd.grad(output, (x, weight, bias), normals(*output.shape, seed=seed + 3))
        results.append((output, mean, variance, *gradients))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
