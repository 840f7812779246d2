"""What a model costs: time, peak memory and bytes kept for the backward pass.

``python -m segnet_ext.measure inference|training IMPLEMENTATION MODEL HxW BATCH THREADS`` measures one model in a
process of its own, so that nothing another one allocated hides its peak, and prints the figures as JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

# Plain torch is ``segnet_ext.reference``; which layout it prefers is for the caller to find out.
IMPLEMENTATIONS = ("ours", "torch", "torch channels_last")
_CLASSES = 11
_REPEATS = 5
_SECONDS = 2.0
_WARM_UP_SIDE = 32  # the smallest image that SegNet takes


@dataclass(frozen=True)
class Cost:
    """Costs of one batch. Peaks are None where the system does not tell.

    Attributes:
        ms: median time of a pass, milliseconds.
        peak_bytes: how far the process grew during its first pass over what it held with the model built: without the
            weights, but with their gradients.
        absolute_peak_bytes: the most that the process held during that pass, the interpreter and torch included.
        saved_bytes: memory that autograd keeps between forward and backward, weights left out; None of inference.
    """

    ms: float
    peak_bytes: int | None
    absolute_peak_bytes: int | None
    saved_bytes: int | None


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
        what: ``inference``, or ``training``: forward, loss and backward.
        model: in evaluation mode for inference, in training mode for training.
        images: [N, C, H, W].
    """

    def run(images: torch.Tensor) -> None:
        if what == "inference":
            with torch.inference_mode():
                model(images)
        else:
            training_pass(model, images)

    run(images[:1, :, :_WARM_UP_SIDE, :_WARM_UP_SIDE])  # loads libraries and their caches
    model.zero_grad()  # else the first pass would reuse the memory of these gradients
    rise, peak = peak_of(lambda: run(images))
    saved = saved_bytes(model, images) if what == "training" else None
    return Cost(_median_ms(lambda: run(images)), rise, peak, saved)


def training_pass(model: nn.Module, images: torch.Tensor) -> None:
    model.zero_grad()
    logits = model(images)
    F.cross_entropy(logits, torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.long)).backward()


def measure_apart(
    what: str, implementation: str, model: str, size: tuple[int, int], batch: int, threads: int | None = None
) -> Cost:
    """``measure`` in a fresh process.

    Args:
        what: ``inference`` or ``training``. Of our models, inference means the frozen one alone.
        implementation: one of ``IMPLEMENTATIONS``.
        model: ``segnet`` or ``segnet-basic``.
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
        raise RuntimeError(f"measuring {implementation} {model} failed: {done.stderr.strip()}")
    return Cost(**json.loads(done.stdout))


def _median_ms(run: Callable[[], object]) -> float:
    """Median of some passes, of fewer where one takes seconds."""
    times: list[float] = []
    started = time.perf_counter()
    while not times or (len(times) < _REPEATS and time.perf_counter() - started < _SECONDS):
        begun = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


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
    import segnet_ext
    from segnet_ext import reference

    torch.manual_seed(0)
    package = segnet_ext if implementation == "ours" else reference
    model: nn.Module = {"segnet": package.SegNet, "segnet-basic": package.SegNetBasic}[name](_CLASSES)
    model.train(what == "training")
    if implementation == "ours" and what == "inference":
        return segnet_ext.freeze(model)
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
