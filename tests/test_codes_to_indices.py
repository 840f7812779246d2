"""codes_to_indices against torch's own pool indices and against the definition of a code."""

import pytest
import torch
import torch.nn.functional as F
from cases import POOL_CASES, assert_equal, assert_refuses, id_of, integers, pooled_size, random_bytes

from segnet_ext import reference
from segnet_ext.ops import codes_to_indices, max_pool2d_with_codes


def indices_by_definition(codes, input_size):
    """One window at a time, as the definition reads."""
    n, c, h, w = input_size
    _, oh, ow, _ = codes.shape
    indices = torch.empty(n, c, oh, ow, dtype=torch.int64)
    for i in range(n):
        for channel in range(c):
            for row in range(oh):
                for col in range(ow):
                    code = int(codes[i, row, col, channel // 4]) >> 2 * (channel % 4) & 3
                    y, x = min(2 * row + (code >> 1), h - 1), min(2 * col + (code & 1), w - 1)
                    indices[i, channel, row, col] = y * w + x
    return indices


@pytest.mark.parametrize(("shape", "ceil_mode"), POOL_CASES, ids=id_of)
def test_equals_the_indices_of_torch(device, shape, ceil_mode):
    x = integers(*shape).to(device)
    _, codes = max_pool2d_with_codes(x, ceil_mode)
    _, expected = F.max_pool2d(x, 2, 2, ceil_mode=ceil_mode, return_indices=True)
    indices = codes_to_indices(codes, x.shape)
    assert indices.dtype == torch.int64
    assert_equal(indices, expected)


@pytest.mark.parametrize(("shape", "ceil_mode"), POOL_CASES, ids=id_of)
def test_any_bytes_follow_the_definition(device, shape, ceil_mode):
    n, c, h, w = shape
    codes = random_bytes(n, c, pooled_size(h, ceil_mode), pooled_size(w, ceil_mode))
    expected = indices_by_definition(codes, shape).to(device)
    assert_equal(codes_to_indices(codes.to(device), shape), expected)
    assert_equal(reference.codes_to_indices(codes.to(device), shape), expected)


@pytest.mark.parametrize(
    "input_size", [[2, 5, 6, 7], (2, 5, 6, 7), torch.Size([2, 5, 6, 7])], ids=["list", "tuple", "Size"]
)
def test_kinds_of_input_size(device, input_size):
    codes = random_bytes(2, 5, 3, 4).to(device)
    assert_equal(codes_to_indices(codes, input_size), indices_by_definition(codes.cpu(), input_size).to(device))


def test_opcheck(device):
    codes = random_bytes(2, 5, 3, 4).to(device)
    torch.library.opcheck(torch.ops.segnet_ext.codes_to_indices.default, (codes, [2, 5, 6, 7]))


class _Indices(torch.nn.Module):
    def forward(self, x):
        _, codes = max_pool2d_with_codes(x, ceil_mode=True)
        return codes_to_indices(codes, x.shape)


@pytest.mark.parametrize(("backend", "dynamic"), [("aot_eager", False), ("aot_eager", True), ("inductor", False)])
def test_compile(device, backend, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(_Indices(), fullgraph=True, backend=backend, dynamic=dynamic)
    for shape in [(2, 5, 6, 8), (1, 5, 7, 9)]:
        x = integers(*shape).to(device)
        assert_equal(compiled(x), _Indices()(x))


def test_export(device):
    height, width = torch.export.Dim("height", min=3, max=64), torch.export.Dim("width", min=3, max=64)
    x = integers(2, 5, 6, 8).to(device)
    assert_equal(torch.export.export(_Indices(), (x,)).module()(x), _Indices()(x))
    program = torch.export.export(_Indices(), (x,), dynamic_shapes={"x": {2: height, 3: width}})
    for shape in [(2, 5, 6, 8), (2, 5, 9, 7)]:
        x = integers(*shape).to(device)
        assert_equal(program.module()(x), _Indices()(x))


CODES = torch.zeros(1, 2, 2, 1, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("codes", "input_size", "argument", "got"),
    [
        (CODES.int(), (1, 4, 4, 4), "codes", "int"),
        (CODES.float(), (1, 4, 4, 4), "codes", "float"),
        (CODES[0], (1, 4, 4, 4), "codes", "3"),
        (CODES, (1, 5, 4, 4), "codes", "1"),
        (CODES, (2, 4, 4, 4), "codes", "1"),
        (CODES, (1, 4, 6, 4), "input_size", "1, 4, 6, 4"),
        (CODES, (1, 4, 4, 2), "input_size", "1, 4, 4, 2"),
        (CODES.expand(1, 2, 2, 2)[..., :2], (1, 8, 4, 4), "codes", "stride|contiguous"),
        (CODES, (4, 4), "input_size", "4"),
        (CODES, (1, 4, 0, 4), "input_size", "0"),
        (CODES, (1, 4, -4, 4), "input_size", "-4"),
        (CODES, (1, 0, 4, 4), "input_size", "0"),
        ([0], (1, 4, 4, 4), "codes", "list"),
        (CODES, 4, "input_size", "int|4"),
    ],
    ids=[
        "int32",
        "float",
        "rank",
        "channels",
        "batch",
        "height",
        "width",
        "strided",
        "size_of_2",
        "no_rows",
        "negative",
        "no_channels",
        "list",
        "size_int",
    ],
)
def test_bad_input(codes, input_size, argument, got):
    assert_refuses(lambda: codes_to_indices(codes, input_size), "codes_to_indices", argument, got)
