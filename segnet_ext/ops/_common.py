"""What the operators share: their registration, the short way to call them, and shapes for fake kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch._ops import OpOverload

_LIBRARY = torch.library.Library("segnet_ext", "FRAGMENT")
_PLAIN = (Tensor, torch.nn.Parameter)


def is_plain(*args: Any) -> bool:
    """Whether these are the arguments of a call in eager mode on plain tensors, which nothing in torch has to see."""
    if (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
    ):
        return False
    for arg in args:  # a generator would take twice as long, on every call
        if type(arg) in _PLAIN:
            if arg.is_meta:
                return False
        elif isinstance(arg, Tensor):
            return False
    return True


def _makes_a_graph(plain: Sequence[Any]) -> bool:
    if torch.is_grad_enabled():
        for arg in plain:
            if type(arg) in _PLAIN and arg.requires_grad:
                return True
    return False


class Operator:
    """A function as the operator ``segnet_ext::name``, for all devices.

    As ``torch.library.custom_op``, which also looks at every call for results that share memory with an argument: that
    takes longer than the kernels take on a small map. The functions here return tensors of their own.

    A call on plain tensors in eager mode goes straight to the function, or to an autograd function around it: there the
    dispatcher would lead to the same, by a way through Python that takes longer, too. All else that torch does with a
    call (compiling, exporting, tracing, fake tensors, function transforms, dispatch modes) goes by the operator.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        schema = torch.library.infer_schema(function, mutates_args=())
        _LIBRARY.define(name + schema, tags=[torch.Tag.pt2_compliant_tag])
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        self.overload: OpOverload = getattr(torch.ops.segnet_ext, name).default
        self._name = name
        self._function = function
        self._differentiable: Callable[..., Any] = self.overload

    def __call__(self, *args: Any) -> Any:
        if not is_plain(*args):
            return self.overload(*args)
        try:
            return self._differentiable(*args) if _makes_a_graph(args) else self._function(*args)
        except TypeError:
            return self.overload(*args)  # which names the argument that pybind11 only shows

    def register_fake(self, fake: Callable[..., Any]) -> None:
        """A decorator: the function gives uninitialised results of the right shapes and dtypes."""
        torch.library.register_fake(self.overload)(fake)

    def register_autograd(
        self, backward: Callable[..., Any], setup_context: Callable[..., None], eager: Callable[..., Any] | None = None
    ) -> None:
        """As ``torch.library.register_autograd``; ``eager`` is the extension's own function that records the graph."""
        torch.library.register_autograd(self.overload, backward, setup_context=setup_context)
        self._differentiable = eager or self._autograd_function(backward, setup_context)

    def _autograd_function(
        self, backward: Callable[..., Any], setup_context: Callable[..., None]
    ) -> Callable[..., Any]:
        arguments = len(self.overload._schema.arguments)

        def forward(ctx: Any, *args: Any) -> Any:
            ctx.set_materialize_grads(False)  # would make zeros for codes, which have no gradient
            output = self._function(*args)
            setup_context(ctx, args, output)
            return output

        def eager_backward(ctx: Any, *grads: Tensor | None) -> Any:
            return backward(ctx, *grads) if any(grad is not None for grad in grads) else (None,) * arguments

        members = {"forward": staticmethod(forward), "backward": staticmethod(eager_backward)}
        function: Any = type(self._name, (torch.autograd.Function,), members)
        return function.apply

    def refuse_double_backward(self, name: str) -> None:
        """Makes differentiating this operator, a backward, an error that names the operation, not its internals."""

        def refuse(ctx: Any, *grads: Tensor) -> NoReturn:
            raise RuntimeError(f"{name}: second derivatives are not implemented")

        torch.library.register_autograd(self.overload, refuse)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Makes the decorated function an :class:`Operator`."""
    return lambda function: Operator(name, function)


def empty_map(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """An uninitialised channels_last map [N, channels, height, width] of the batch, dtype and device of ``like``."""
    return torch.empty(
        (like.shape[0], channels, height, width),
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def empty_codes(like: Tensor, channels: int, pooled_height: int, pooled_width: int) -> Tensor:
    """Uninitialised codes uint8 [N, OH, OW, ceil(C / 4)]."""
    return like.new_empty((like.shape[0], pooled_height, pooled_width, (channels + 3) // 4), dtype=torch.uint8)


def is_channels_last(weight: Tensor) -> bool:
    """Whether a convolution's weight is channels_last, as in a model that is; its gradient is made to lie likewise."""
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def weight_format(channels_last: bool) -> torch.memory_format:
    """The layout of a convolution's weight or its gradient."""
    return torch.channels_last if channels_last else torch.contiguous_format


def pooled_size(size: int, ceil_mode: bool) -> int:
    """Rows or columns that a 2x2, stride-2 pool makes of ``size``."""
    return (size + 1) // 2 if ceil_mode else size // 2


def unpooled_size(op: str, input: Tensor, output_size: Sequence[int] | None) -> Sequence[int]:
    """(H, W) of what a pooled map is unpooled to; twice its size where ``output_size`` is None."""
    if output_size is None:
        return 2 * input.shape[-2], 2 * input.shape[-1]
    if not isinstance(output_size, Sequence) or len(output_size) not in (2, 4):
        raise ValueError(f"{op}: output_size must be (H, W) or (N, K, H, W), got {output_size}")
    return output_size[-2:]


def autocast(tensor: Tensor) -> Tensor:
    """What autocast makes of an argument of a convolution; float64 and integers stay as they are."""
    device = tensor.device.type
    # Not torch.amp.is_autocast_available, which torch.compile cannot trace before torch 2.7.
    enabled = device in ("cpu", "cuda") and torch.is_autocast_enabled(device)
    if enabled and tensor.is_floating_point() and tensor.dtype != torch.float64:
        return tensor.to(torch.get_autocast_dtype(device))
    return tensor
