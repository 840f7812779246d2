"""Stages of models, inside which backward can make the maps again instead of keeping them."""

import contextlib
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Stage(nn.Module):
    """Part of a model that a step of training can go through twice, forward and again in backward."""

    grad_checkpointing = False


class StagedModel(nn.Module):
    """Gives a model :meth:`set_grad_checkpointing`: it calls its :class:`Stage` modules by :func:`run_stage`."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep for backward only the maps between stages, and make those inside them again there; or stop doing so.

        For training with less memory. A step takes longer by most of a forward pass; outputs, gradients, running
        statistics and dropout's masks are those without checkpointing. The last stage is never checkpointed: backward
        comes to it first, before anything is freed. Calls without gradients are as ever, and so are those under
        ``torch.compile`` and ``torch.export``, which do not see the setting. It is no part of the ``state_dict``, but
        of copies and pickles.

        Between a forward and its backward, parameters must stay as they are, and modules in their modes: ``train()``
        or ``eval()``. Hooks on the modules of a stage run in both.

        Args:
            enable: False to keep all maps again.

        >>> from segnet_ext import SegNet
        >>> model = SegNet(num_classes=11)
        >>> model.set_grad_checkpointing()
        >>> model(torch.randn(2, 3, 32, 32)).sum().backward()
        """
        *stages, _last = (module for module in self.modules() if isinstance(module, Stage))
        for stage in stages:
            stage.grad_checkpointing = enable


def run_stage(stage: Stage, *args: Any) -> Any:
    """``stage(*args)``, of which backward makes the maps again if the stage's ``grad_checkpointing`` says so."""
    if not stage.grad_checkpointing or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return stage(*args)
    seen = _SeenBefore([stage, *(arg for arg in args if isinstance(arg, nn.Module))])
    return checkpoint(stage, *args, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), seen))


class _SeenBefore:
    """While entered, the buffers in ``modules`` are copies: BatchNorm must not count a batch again."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self._owners = [module for part in modules for module in part.modules()]
        self._buffers: list[tuple[nn.Module, str, torch.Tensor]] = []

    def __enter__(self) -> None:
        self._buffers = [(owner, *item) for owner in self._owners for item in owner.named_buffers(recurse=False)]
        for owner, name, buffer in self._buffers:
            setattr(owner, name, buffer.clone())

    def __exit__(self, *exception: object) -> None:
        for owner, name, buffer in self._buffers:
            setattr(owner, name, buffer)
        self._buffers = []
