"""indices_to_codes: torch's pool indices to codes, and back without loss."""

import pytest
import torch
import torch.nn.functional as F
from cases import POOL_CASES, assert_equal, assert_refuses, codes_of_indices, id_of, integers, normals, random_bytes

from segnet_ext import reference
from segnet_ext.ops import codes_to_indices, indices_to_codes, max_pool2d_with_codes


@pytest.mark.parametrize("full_size", [False, True], ids=["HW", "NCHW"])
@pytest.mark.parametrize(("shape", "ceil_mode"), POOL_CASES, ids=id_of)
def test_equals_the_definition(device, shape, ceil_mode, full_size):
    _, indices = F.max_pool2d(normals(*shape).to(device), 2, 2, ceil_mode=ceil_mode, return_indices=True)
    input_size = shape if full_size else shape[2:]
    codes = indices_to_codes(indices, input_size)
    assert codes.dtype == torch.uint8
    assert codes.is_contiguous()
    expected = codes_of_indices(indices, shape[3])
    assert_equal(codes, expected)
    assert_equal(reference.indices_to_codes(indices, input_size), expected)


@pytest.mark.parametrize(("shape", "ceil_mode"), POOL_CASES, ids=id_of)
def test_round_trip(device, shape, ceil_mode):
    _, codes = max_pool2d_with_codes(integers(*shape).to(device), ceil_mode)
    assert_equal(indices_to_codes(codes_to_indices(codes, shape), shape), codes)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 1), (1, 4)], ids=id_of)
def test_round_trip_cleans_any_bytes(device, size):
    # Clipped codes and pad bits are not unique, the indices they mean are.
    shape = (2, 5, *size)
    codes = random_bytes(2, 5, (size[0] + 1) // 2, (size[1] + 1) // 2).to(device)
    indices = codes_to_indices(codes, shape)
    clean = indices_to_codes(indices, shape)
    assert_equal(codes_to_indices(clean, shape), indices)
    assert_equal(clean, codes_of_indices(indices, size[1]))


@pytest.mark.parametrize("layout", ["channels_last", "sliced"])
def test_layouts(device, layout):
    _, indices = F.max_pool2d(normals(2, 5, 7, 9), 2, 2, ceil_mode=True, return_indices=True)
    if layout == "channels_last":
        strided = indices.contiguous(memory_format=torch.channels_last)
    else:
        strided = torch.full((3, 11, 4, 11), -1)[1:, 1::2, :, 1::2].copy_(indices)
    assert_equal(indices_to_codes(strided.to(device), (7, 9)), codes_of_indices(indices, 9).to(device))


def test_opcheck(device):
    _, indices = F.max_pool2d(normals(2, 5, 6, 8).to(device), 2, 2, return_indices=True)
    torch.library.opcheck(torch.ops.segnet_ext.indices_to_codes.default, (indices, [6, 8]))


class _Codes(torch.nn.Module):
    def forward(self, x):
        _, indices = F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
        return indices_to_codes(indices, x.shape)


@pytest.mark.parametrize(("backend", "dynamic"), [("aot_eager", False), ("aot_eager", True), ("inductor", False)])
def test_compile(device, backend, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(_Codes(), fullgraph=True, backend=backend, dynamic=dynamic)
    for shape in [(2, 5, 6, 8), (1, 5, 7, 9)]:
        x = integers(*shape).to(device)
        assert_equal(compiled(x), _Codes()(x))


def test_export(device):
    # F.max_pool2d in ceil mode can only be exported for sizes known to be even.
    height, width = 2 * torch.export.Dim("rows", min=2, max=32), 2 * torch.export.Dim("columns", min=2, max=32)
    x = integers(2, 5, 6, 8).to(device)
    assert_equal(torch.export.export(_Codes(), (x,)).module()(x), _Codes()(x))
    program = torch.export.export(_Codes(), (x,), dynamic_shapes={"x": {2: height, 3: width}})
    for shape in [(2, 5, 6, 8), (2, 5, 10, 4)]:
        x = integers(*shape).to(device)
        assert_equal(program.module()(x), _Codes()(x))


@pytest.mark.parametrize("outside", [-1, -(2**62), 2, 8, 15, 16, 2**40, 2**62])
def test_an_index_outside_its_window_is_refused(device, outside):
    # The first window of a 4x4 map holds the indices 0, 1, 4 and 5.
    indices = F.max_pool2d(normals(1, 3, 4, 4), 2, 2, return_indices=True)[1]
    indices[0, 1, 0, 0] = outside
    with pytest.raises((ValueError, RuntimeError), match=r"indices_to_codes: indices must .*got"):
        indices_to_codes(indices.to(device), (4, 4))


INDICES = torch.tensor([0, 2, 8, 10]).reshape(1, 1, 2, 2)


@pytest.mark.parametrize(
    ("indices", "input_size", "argument", "got"),
    [
        (INDICES.int(), (4, 4), "indices", "int"),
        (INDICES.float(), (4, 4), "indices", "float"),
        (INDICES[0], (4, 4), "indices", "3"),
        (INDICES, (6, 4), "input_size", "6, 4"),
        (INDICES, (4, 7), "input_size", "4, 7"),
        (INDICES, (2, 1, 4, 4), "input_size", "2, 1, 4, 4"),
        (INDICES, (1, 3, 4, 4), "input_size", "1, 3, 4, 4"),
        (INDICES, (4,), "input_size", "4"),
        (INDICES, (1, 4, 4), "input_size", "4"),
        (INDICES, (0, 4), "input_size", "0"),
        (INDICES, (-4, 4), "input_size", "-4"),
        ([0], (4, 4), "indices", "list"),
    ],
    ids=[
        "int32",
        "float",
        "rank",
        "height",
        "width",
        "batch",
        "channels",
        "size_of_1",
        "size_of_3",
        "no_rows",
        "negative",
        "list",
    ],
)
def test_bad_input(indices, input_size, argument, got):
    assert_refuses(lambda: indices_to_codes(indices, input_size), "indices_to_codes", argument, got)
