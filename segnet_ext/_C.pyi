from collections.abc import Sequence
from typing import Any

from torch import Tensor

def build_info() -> dict[str, Any]: ...
def max_pool2d_with_codes_call(input: Tensor, ceil_mode: bool) -> tuple[Tensor, Tensor]: ...
def max_pool2d_with_codes_forward(input: Tensor, ceil_mode: bool) -> tuple[Tensor, Tensor]: ...
def max_pool2d_with_codes_backward(grad_output: Tensor, codes: Tensor, height: int, width: int) -> Tensor: ...
def bn_relu_max_pool2d_call(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]: ...
def bn_relu_max_pool2d_stats(input: Tensor) -> tuple[Tensor, Tensor]: ...
def update_running_stats(
    mean: Tensor, var: Tensor, values: int, running_mean: Tensor, running_var: Tensor, momentum: float
) -> None: ...
def bn_relu_max_pool2d_forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]: ...
def bn_relu_max_pool2d_backward(
    grad_output: Tensor,
    input: Tensor,
    codes: Tensor,
    output: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    batch_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]: ...
def max_unpool2d_conv2d_call(
    input: Tensor, codes: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int, relu: bool
) -> Tensor: ...
def max_unpool2d_conv2d_forward(
    input: Tensor, codes: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int, relu: bool
) -> Tensor: ...
def max_unpool2d_conv2d_grad_input(
    grad_output: Tensor, codes: Tensor, weight: Tensor, pooled_height: int, pooled_width: int
) -> Tensor: ...
def max_unpool2d_conv2d_grad_weight(
    grad_output: Tensor, input: Tensor, codes: Tensor, kernel_size: int, channels_last: bool
) -> Tensor: ...
def conv2d_relu_max_pool2d(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]: ...
def bn_relu_conv2d_call(
    input: Tensor,
    normalises: bool,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    codes: Tensor | None,
    height: int,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
) -> Tensor: ...
def bn_relu_conv2d_forward(
    input: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    codes: Tensor | None,
    height: int,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
) -> Tensor: ...
def bn_relu_conv2d_check(
    input: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    codes: Tensor | None,
    height: int,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
) -> None: ...
def bn_relu_conv2d_grad_input(
    grad_output: Tensor,
    input: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    batch_statistics: bool,
    codes: Tensor | None,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]: ...
def bn_relu_conv2d_grad_weight(
    grad_output: Tensor,
    input: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    codes: Tensor | None,
    weight: Tensor,
) -> Tensor: ...
def conv_bias_grad(grad_output: Tensor) -> Tensor: ...
def codes_to_indices(codes: Tensor, input_size: Sequence[int]) -> Tensor: ...
def indices_to_codes(indices: Tensor, input_size: Sequence[int]) -> Tensor: ...
def empty_cache() -> None: ...

class MapReuse:
    def __enter__(self) -> None: ...
    def __exit__(self, *args: object) -> None: ...
