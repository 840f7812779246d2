"""docs/sparse_tensor_cores.md is true: its grouping is 2:4 whatever the codes, and computes unpool + convolution.

A warp's mma.sp.m16n8k32 is acted out on registers as the PTX ISA lays them out ("Warp-level matrix instructions for
sparse matrix A"), with what the document builds from pooled values and code bytes alone.
"""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cases import integers, pack

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "sparse_tensor_cores.md"
KERNELS = [1, 3, 5, 7]
CLASSES = [(0, 0), (0, 1), (1, 0), (1, 1)]  # parities of an output pixel's row and column


def strips(parity, kernel_size):
    """A footprint along one axis: [(window relative to the pixel's own, [(place in the window, tap), ...]), ...]."""
    taps = {}
    for tap in range(kernel_size):
        position = parity + tap - kernel_size // 2
        taps.setdefault(position // 2, []).append((position % 2, tap))
    return sorted(taps.items())


def dominoes(row_parity, col_parity, kernel_size):
    """The footprint of a class of output pixels cut into dominoes, none of which leaves its pooling window.

    Each is (window row, window column, whether it lies along a row, [(code, (tap row, tap column)), ...]) with one or
    two cells, in the order of their codes.
    """
    result = []
    for window_row, rows in strips(row_parity, kernel_size):
        for window_col, cols in strips(col_parity, kernel_size):
            cells = [[(2 * row + col, (r, s)) for col, s in cols] for row, r in rows]
            along_row = len(cols) == 2
            for domino in cells if along_row else [[cell for row in cells for cell in row]]:
                result.append((window_row, window_col, along_row, domino))
    return result


@pytest.mark.parametrize("kernel_size", KERNELS)
@pytest.mark.parametrize("parities", CLASSES)
def test_dominoes_cover_the_footprint_once(parities, kernel_size):
    placed = dominoes(*parities, kernel_size)
    taps = [tap for *_, cells in placed for _, tap in cells]
    assert sorted(taps) == [(r, s) for r in range(kernel_size) for s in range(kernel_size)]
    assert len(placed) == (kernel_size**2 + 1) // 2
    for *_, along_row, cells in placed:
        assert len({code // 2 if along_row else code % 2 for code, _ in cells}) == 1  # one row, or one column


def test_the_document_states_these_gains():
    text = DOCUMENT.read_text(encoding="utf-8")
    for kernel_size in KERNELS[1:]:
        slots = 2 * len(dominoes(0, 0, kernel_size))
        cells = [str(kernel_size), str(kernel_size**2), str(slots), f"{2 * kernel_size**2 / slots:.2f}"]
        assert re.search(r"\|\s*" + r"\s*\|\s*(?:.*\|\s*)?".join(map(re.escape, cells)), text), cells


def metadata_of(codes, along_row):
    """The 2:4 metadata of four channels' code byte (or of more bytes at once): two ascending positions a group."""
    ones, top = (0x55555555, 0x88888888)
    return (codes if along_row else codes >> 1) & ones | top


@pytest.mark.parametrize("along_row", [True, False])
def test_a_code_byte_is_metadata_but_for_two_masks(along_row):
    for byte in range(256):
        metadata = metadata_of(byte, along_row) & 0xFF
        for group in range(2):
            first, second = metadata >> 4 * group & 3, metadata >> 4 * group + 2 & 3
            codes = byte >> 4 * group & 3, byte >> 4 * group + 2 & 3
            places = [code % 2 if along_row else code // 2 for code in codes]
            assert (first, second) == (places[0], 2 + places[1])
            assert first < second  # as mma.sp::ordered_metadata wants them


def mma_sp_m16n8k32(a, b, metadata, selector):
    """a [32 lanes, 4 registers, 2 halves], b the same, metadata [32 lanes] of 32 bits -> d [32 lanes, 4]."""
    sparse = torch.zeros(16, 32, dtype=torch.float64)
    for row in range(16):
        for chunk in range(8):  # of four columns, two of them stored
            lane = 4 * (row % 8) + 2 * selector + chunk // 4
            positions = int(metadata[lane]) >> (16 * (row // 8) + 4 * (chunk % 4)) & 15
            assert positions & 3 < positions >> 2
            for i, position in enumerate((positions & 3, positions >> 2)):
                stored = 2 * chunk + i
                register = row // 8 + 2 * (stored // 8)
                value = a[4 * (row % 8) + stored % 8 // 2, register, stored % 2]
                sparse[row, 4 * chunk + position] = value
    dense = torch.empty(32, 8, dtype=torch.float64)
    for k in range(32):
        for n in range(8):
            dense[k, n] = b[4 * n + k % 8 // 2, k // 8, k % 2]
    product = sparse @ dense
    d = torch.empty(32, 4, dtype=torch.float64)
    for lane in range(32):
        for i in range(4):
            d[lane, i] = product[lane // 4 + 8 * (i // 2), 2 * (lane % 4) + i % 2]
    return d


def sparse_registers(pooled, codes, cells, along_row, selector):
    """16 windows x 16 channels of pooled values [16, 16] and their code bytes [16, 4] as a warp's a and metadata."""
    wanted = {code for code, _ in cells}
    a, metadata = torch.zeros(32, 4, 2, dtype=torch.float64), torch.zeros(32, dtype=torch.int64)
    for lane in range(32):
        row, quad = lane // 4, lane % 4
        for register in range(4):
            for half in range(2):
                window, channel = row + 8 * (register % 2), 2 * quad + half + 8 * (register // 2)
                code = int(codes[window, channel // 4]) >> 2 * (channel % 4) & 3
                a[lane, register, half] = pooled[window, channel] if code in wanted else 0
        if quad // 2 == selector:
            # The code bytes of 8 channels of two windows, untouched but for metadata_of.
            byte = 2 * (quad % 2)
            low, high = (int(codes[w, byte]) | int(codes[w, byte + 1]) << 8 for w in (row, row + 8))
            metadata[lane] = metadata_of(low | high << 16, along_row)
    return a, metadata


def weight_registers(weight, cells, along_row):
    """weight [8 outputs, 16 channels, k, k] as a warp's b: rows of the product are channel, place in the domino."""
    rows = torch.zeros(32, 8, dtype=torch.float64)
    for code, (r, s) in cells:
        place = code % 2 if along_row else code // 2
        for channel in range(16):
            rows[2 * channel + place] = weight[:, channel, r, s]
    b = torch.empty(32, 4, 2, dtype=torch.float64)
    for lane in range(32):
        for register in range(4):
            for half in range(2):
                b[lane, register, half] = rows[2 * (lane % 4) + half + 8 * register, lane // 4]
    return b


def unpooled_and_reference(kernel_size, height, width):
    x = integers(1, 16, height, width, seed=1)
    pooled, indices = F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
    rows, cols = indices // width % 2, indices % width % 2
    weight = integers(8, 16, kernel_size, kernel_size, seed=2)
    unpooled = F.max_unpool2d(pooled, indices, 2, 2, output_size=(height, width))
    return pooled, 2 * rows + cols, weight, F.conv2d(unpooled, weight, padding=kernel_size // 2)


@pytest.mark.parametrize("parities", CLASSES)
@pytest.mark.parametrize(("kernel_size", "selector"), [(3, 0), (3, 1), (7, 0)])
def test_registers_of_a_warp_compute_the_convolution(kernel_size, parities, selector):
    height, width = 8, 32  # one row of 16 windows is the tile
    pooled, numbers, weight, expected = unpooled_and_reference(kernel_size, height, width)
    codes = pack(numbers)[0]  # [OH, OW, 4]
    own_row = 2
    total = torch.zeros(32, 4, dtype=torch.float64)
    for window_row, window_col, along_row, cells in dominoes(*parities, kernel_size):
        tile, tile_codes = torch.zeros(16, 16, dtype=torch.float64), torch.zeros(16, 4, dtype=torch.uint8)
        for i in range(16):
            row, col = own_row + window_row, i + window_col
            if 0 <= row < height // 2 and 0 <= col < width // 2:
                tile[i], tile_codes[i] = pooled[0, :, row, col], codes[row, col]
        a, metadata = sparse_registers(tile, tile_codes, cells, along_row, selector)
        total += mma_sp_m16n8k32(a, weight_registers(weight, cells, along_row), metadata, selector)
    for lane in range(32):
        for i in range(4):
            pixel, output = lane // 4 + 8 * (i // 2), 2 * (lane % 4) + i % 2
            assert total[lane, i] == expected[0, output, 2 * own_row + parities[0], 2 * pixel + parities[1]]


@pytest.mark.parametrize("size", [(8, 10), (7, 9), (1, 6), (5, 1)])
@pytest.mark.parametrize("kernel_size", KERNELS)
def test_all_pixels_of_any_map(kernel_size, size):
    height, width = size
    pooled, numbers, weight, expected = unpooled_and_reference(kernel_size, height, width)
    actual = torch.zeros_like(expected)
    margin = kernel_size // 2 + 1  # in windows
    values = F.pad(pooled, [margin] * 4)
    codes = F.pad(numbers, [margin] * 4)
    for row_parity, col_parity in CLASSES:
        for window_row, window_col, _, cells in dominoes(row_parity, col_parity, kernel_size):
            rows = slice(margin + window_row, margin + window_row + pooled.shape[2])
            cols = slice(margin + window_col, margin + window_col + pooled.shape[3])
            stored = 0
            for code, (r, s) in cells:
                kept = torch.where(codes[:, :, rows, cols] == code, values[:, :, rows, cols], 0)
                assert not torch.any((kept != 0) & (stored != 0))  # one stored value a channel and domino: 2:4
                stored = stored + kept
                part = torch.einsum("nchw,kc->nkhw", kept, weight[:, :, r, s])
                target = actual[:, :, row_parity::2, col_parity::2]
                target += part[:, :, : target.shape[2], : target.shape[3]]
    assert torch.equal(actual, expected)


def test_grad_weight_is_sparse_along_the_pixels_without_waste():
    height, width, kernel_size = 6, 8, 3
    pooled, numbers, weight, output = unpooled_and_reference(kernel_size, height, width)
    grad = integers(*output.shape, seed=3)
    weight.requires_grad_()
    unpooled = torch.zeros(1, 16, height, width, dtype=torch.float64)
    for code in range(4):
        unpooled[:, :, code // 2 :: 2, code % 2 :: 2] = torch.where(numbers == code, pooled, 0)
    (expected,) = torch.autograd.grad(F.conv2d(unpooled, weight, padding=1), weight, grad)
    # Four neighbouring pixels of a row are two windows' halves: K goes over all pixels, and none is padding.
    groups = unpooled.reshape(1, 16, height, width // 4, 4)
    assert int((groups != 0).sum(-1).max()) <= 2
    shifted = F.pad(grad, [1] * 4)
    for r in range(kernel_size):
        for s in range(kernel_size):
            view = shifted[:, :, 2 - r : 2 - r + height, 2 - s : 2 - s + width]
            assert torch.equal(torch.einsum("nkhw,nchw->kc", view, unpooled), expected[:, :, r, s])
