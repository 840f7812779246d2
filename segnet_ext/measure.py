"""What a model costs: time, peak memory and bytes kept for the backward pass.

``python -m segnet_ext.measure inference|evaluation|training IMPLEMENTATION MODEL HxW BATCH THREADS`` measures one model
in a process of its own, so that nothing another one allocated hides its peak, and prints the figures as JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

T = TypeVar("T")

# Plain torch is ``segnet_ext.reference``; which layout it prefers is for the caller to find out.
IMPLEMENTATIONS = ("ours", "torch", "torch channels_last")
CHECKPOINTED = "ours checkpointed"  # of training: with set_grad_checkpointing()
_CLASSES = 11
_REPEATS = 5
_SECONDS = 2.0
_WARM_UP_SIDE = 64  # every model takes it, even in training, one image at a time


@dataclass(frozen=True)
class Cost:
    """Costs of one batch. Peaks are None where the system does not tell.

    Attributes:
        ms: median time of a pass, milliseconds.
        peak_bytes: how far the process grew during its first pass over what it held with the model built: without the
            weights, but with their gradients.
        absolute_peak_bytes: the most that the process held during that pass, the interpreter and torch included.
        saved_bytes: memory that autograd keeps between forward and backward, weights left out; None of inference.
        forward_ms: of ``ms``, the median time of the forward pass; None of inference.
    """

    ms: float
    peak_bytes: int | None
    absolute_peak_bytes: int | None
    saved_bytes: int | None
    forward_ms: float | None = None


def saved_bytes(model: nn.Module, images: torch.Tensor) -> int:
    """Bytes that ``model(images)`` keeps for backward: every storage once, parameters and the images left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), images)}
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(images)  # held until the count is done: freed memory would be counted again under one address
    total = sum(storages.values())
    del logits
    return total


def measure(what: str, model: nn.Module, images: torch.Tensor) -> Cost:
    """Measures a model on the CPU. The peak is only honest in a process that has not yet run anything as large.

    Args:
        what: ``inference`` or ``evaluation``, or ``training``: forward, loss and backward.
        model: in evaluation mode, or in training mode for training.
        images: [N, C, H, W].
    """

    def run(images: torch.Tensor) -> float:
        """Milliseconds of the forward pass."""
        if what == "training":
            return training_pass(model, images)
        with torch.inference_mode():
            return _timed(lambda: model(images))[1]

    run(images[:1, :, :_WARM_UP_SIDE, :_WARM_UP_SIDE])  # loads libraries and their caches
    model.zero_grad()  # else the first pass would reuse the memory of these gradients
    rise, peak = peak_of(lambda: run(images))
    saved = saved_bytes(model, images) if what == "training" else None
    ms, forward_ms = _median_ms(lambda: run(images))
    return Cost(ms, rise, peak, saved, forward_ms if what == "training" else None)


def training_pass(model: nn.Module, images: torch.Tensor) -> float:
    """Forward, loss and backward; returns the milliseconds of the forward pass."""
    model.zero_grad()
    logits, forward_ms = _timed(lambda: model(images))
    F.cross_entropy(logits, torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.long)).backward()
    return forward_ms


def measure_apart(
    what: str, implementation: str, model: str, size: tuple[int, int], batch: int, threads: int | None = None
) -> Cost:
    """``measure`` in a fresh process.

    Args:
        what: ``inference``, ``evaluation`` or ``training``. Of our models, inference means the frozen one alone, which
            SegNet and SegNet-Basic have, and evaluation the model as it is.
        implementation: one of ``IMPLEMENTATIONS``, or of training ``CHECKPOINTED``.
        model: a name in ``segnet_ext.checkpoint.MODEL_TYPES``.

    Raises:
        RuntimeError: says what went wrong there, such as too little memory.
    """
    arguments = [what, implementation, model, f"{size[0]}x{size[1]}", str(batch)]
    done = subprocess.run(
        [sys.executable, "-m", "segnet_ext.measure", *arguments, str(threads or torch.get_num_threads())],
        cwd=Path(__file__).parents[1],  # not the caller's: in a source folder, that would import the sources
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = done.stderr.strip()
        if done.returncode == -signal.SIGKILL:
            reason = "the system ended the process, as it does when memory runs out"
        raise RuntimeError(f"measuring {implementation} {model} failed: {reason}")
    return Cost(**json.loads(done.stdout))


def processor() -> str:
    """The name of the CPU, as far as the system tells."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    """The result, and the milliseconds that it took."""
    begun = time.perf_counter()
    result = run()
    return result, 1000 * (time.perf_counter() - begun)


def _median_ms(run: Callable[[], float]) -> tuple[float, float]:
    """Medians of the times of some passes, fewer where one takes seconds, and of the times that they return."""
    whole: list[float] = []
    parts: list[float] = []
    started = time.perf_counter()
    while not whole or (len(whole) < _REPEATS and time.perf_counter() - started < _SECONDS):
        part, ms = _timed(run)
        whole.append(ms)
        parts.append(part)
    return statistics.median(whole), statistics.median(parts)


def peak_of(run: Callable[[], object]) -> tuple[int | None, int | None]:
    """Bytes by which the process grows while ``run`` runs, and the most that it holds; None where unknown."""
    gc.collect()
    _return_freed_memory()
    before = _start_peak()
    result = run()
    peak = _peak()
    del result
    return (None if peak is None or before is None else max(0, peak - before)), peak


def _return_freed_memory() -> None:
    """Gives what was freed back to the system: a pass that used it again would seem to need none."""
    from segnet_ext import empty_cache

    empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def _start_peak() -> int | None:
    """Bytes in use now; the system's peak is set back to them where it can be (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status_bytes("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int | None:
    """The most memory that this process has had resident."""
    try:
        return _status_bytes("VmHWM")
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _build(what: str, implementation: str, name: str) -> nn.Module:
    from segnet_ext import freeze, reference
    from segnet_ext.checkpoint import MODEL_TYPES
    from segnet_ext.models.stage import StagedModel

    torch.manual_seed(0)
    kind = MODEL_TYPES[name]
    ours = implementation in ("ours", CHECKPOINTED)
    factory = kind.factory if ours else getattr(reference, kind.factory.__name__)
    model: nn.Module = factory(_CLASSES, **kind.arguments)
    model.train(what == "training")
    if implementation == CHECKPOINTED:
        assert isinstance(model, StagedModel)
        model.set_grad_checkpointing()
    if implementation == "ours" and what == "inference":
        return freeze(model)
    return model.to(memory_format=_layout(implementation))  # type: ignore[call-overload]


def _layout(implementation: str) -> torch.memory_format:
    return torch.contiguous_format if implementation == "torch" else torch.channels_last


def _main() -> None:
    what, implementation, name, size, batch, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = _build(what, implementation, name)
    height, width = (int(side) for side in size.split("x"))
    images = torch.randn(int(batch), 3, height, width).contiguous(memory_format=_layout(implementation))
    print(json.dumps(asdict(measure(what, model, images))))


if __name__ == "__main__":
    _main()
