"""Inputs that several test files share: layouts, dtypes, integer-valued maps, maps far from every tie."""

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
HALVES = [torch.bfloat16, torch.float16]

# [N, C, H, W]: even, odd, one pixel, one row, one column, channel counts around 4, 8 and 64, an empty batch.
SHAPES = [
    (2, 8, 6, 10),
    (2, 3, 7, 5),
    (1, 1, 1, 1),
    (3, 5, 1, 7),
    (2, 4, 6, 1),
    (1, 13, 5, 9),
    (2, 64, 8, 6),
    (1, 67, 9, 4),
    (0, 5, 6, 4),
]


def has_floor_output(shape: tuple[int, ...]) -> bool:
    """Floor mode drops a lone row or column, which would leave an empty map."""
    return shape[-2] >= 2 and shape[-1] >= 2


POOL_CASES = [
    (shape, ceil_mode) for shape in SHAPES for ceil_mode in (False, True) if ceil_mode or has_floor_output(shape)
]


def id_of(value: object) -> str:
    """A short test id for a shape, a dtype or a layout."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return str(value)


def _sliced(x: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    # An odd offset in every dimension: nothing is aligned and no stride is the one of a whole tensor.
    room = x.new_full((n + 1, 2 * c + 1, h + 3, 2 * w + 1), float("nan"))
    view = room[1:, 1::2, 1 : 1 + h, 1::2]
    return view.copy_(x)


def _transposed(x: torch.Tensor) -> torch.Tensor:
    return x.permute(1, 3, 2, 0).contiguous().permute(3, 0, 2, 1)


def _expanded(x: torch.Tensor) -> torch.Tensor:
    return x[:, :1].expand(x.shape)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced": _sliced,
    "transposed": _transposed,
    "expanded": _expanded,  # the values of channel 0 in every channel
}


def integers(
    *shape: int, low: int = -3, high: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Small integers: many ties and zeros, and every sum is exact in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)


def normals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Normal values, rounded to ``dtype``."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def spaced(*shape: int, seed: int = 0) -> torch.Tensor:
    """Distinct float64 values on a grid that skips 0, in random order: finite differences cross no tie and no zero."""
    count = torch.Size(shape).numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return ((order.double() + 0.5) / count * 4 - 2 + 0.1 / max(count, 1)).reshape(shape)


def random_codes(n: int, c: int, oh: int, ow: int, seed: int = 0) -> torch.Tensor:
    """Valid codes with pad bits 0."""
    generator = torch.Generator().manual_seed(seed)
    return pack(torch.randint(0, 4, (n, c, oh, ow), generator=generator))


def random_bytes(n: int, c: int, oh: int, ow: int, seed: int = 0) -> torch.Tensor:
    """Codes as an attacker or a bug would write them: any byte, pad bits included."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, oh, ow, (c + 3) // 4), generator=generator).to(torch.uint8)


def pack(numbers: torch.Tensor) -> torch.Tensor:
    """[N, C, OH, OW] numbers 0..3 to codes [N, OH, OW, ceil(C/4)], one channel at a time."""
    n, c, oh, ow = numbers.shape
    codes = torch.zeros(n, oh, ow, (c + 3) // 4, dtype=torch.uint8)
    for channel in range(c):
        codes[..., channel // 4] |= (numbers[:, channel].cpu() << 2 * (channel % 4)).to(torch.uint8)
    return codes


def codes_of_indices(indices: torch.Tensor, width: int) -> torch.Tensor:
    """torch's pool indices [N, C, OH, OW] to codes, by the definition: 2 * row + col inside the window."""
    rows = indices // width - 2 * torch.arange(indices.shape[2], device=indices.device)[:, None]
    cols = indices % width - 2 * torch.arange(indices.shape[3], device=indices.device)
    assert indices.numel() == 0 or (int(rows.min()) >= 0 and int(rows.max()) <= 1)
    assert indices.numel() == 0 or (int(cols.min()) >= 0 and int(cols.max()) <= 1)
    return pack(2 * rows + cols).to(indices.device)


def torch_pool(x: torch.Tensor, ceil_mode: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """F.max_pool2d with its indices turned to codes."""
    output, indices = F.max_pool2d(x, 2, 2, ceil_mode=ceil_mode, return_indices=True)
    return output, codes_of_indices(indices, x.shape[3])


def pooled_size(size: int, ceil_mode: bool) -> int:
    return (size + 1) // 2 if ceil_mode else size // 2


def assert_equal(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal shape, dtype and values; NaN equals NaN, 0 equals -0."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def runs_winograd(weight: torch.Tensor, emulated: bool = False) -> bool:
    """Does a convolution with this weight run Winograd's transforms, whose products are no integers any more?"""
    out_channels, in_channels, kernel, _ = weight.shape
    return weight.device.type == "cpu" and not emulated and kernel == 3 and in_channels >= 16 and out_channels >= 8


def assert_exact(actual: torch.Tensor, expected: torch.Tensor, weight: torch.Tensor, emulated: bool = False) -> None:
    """Sums of integers are equal where they are summed as such, and else within the table."""
    if runs_winograd(weight, emulated):
        assert_close(actual, expected)
    else:
        assert_equal(actual, expected)


def assert_channels_last(x: torch.Tensor) -> None:
    assert x.is_contiguous(memory_format=torch.channels_last), f"strides {x.stride()} of shape {tuple(x.shape)}"


def assert_refuses(call: Callable[[], object], op: str, argument: str, got: str) -> None:
    """The call fails with ``op: argument must ..., got ...``, the actual value (a regular expression) at the end."""
    pattern = rf"{op}: {argument} must .*got.*({got})"
    # Where the argument is no tensor or no sequence at all, torch's own check of the operator's schema is as clear.
    schema = rf"{op}.*type '[^']*' for argument '{argument}' but instead found type '({got})'"
    with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
        call()
    assert re.search(f"(?is){pattern}|{schema}", str(caught.value)), f"{caught.value!r} does not match {pattern!r}"


def assert_no_double_backward(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
    """A gradient of the gradient ends in an error that says so."""
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    output = function(*inputs)
    weights = torch.ones_like(output).requires_grad_()
    with pytest.raises(RuntimeError, match=r"(?i)double backward|twice|second (derivative|order)"):
        gradients = torch.autograd.grad(output, inputs, weights, create_graph=True)
        torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), inputs[0])
