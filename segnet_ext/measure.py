"""What a model costs: time, peak memory and bytes kept for the backward pass.

``python -m segnet_ext.measure ours|torch MODEL HxW BATCH THREADS`` measures one model in a process of its own, so that
nothing another one allocated hides its peak, and prints the figures as JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

_REPEATS = 5


@dataclass(frozen=True)
class Cost:
    """Costs of one batch. ``peak_bytes`` is None where the system does not tell.

    Attributes:
        forward_ms: median time of an inference pass, milliseconds.
        step_ms: median time of a training pass, forward and backward, milliseconds.
        peak_bytes: how far the process grew during its first training pass, gradients of the weights included.
        saved_bytes: memory that autograd keeps between forward and backward, weights left out.
    """

    forward_ms: float
    step_ms: float
    peak_bytes: int | None
    saved_bytes: int


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


def measure(model: nn.Module, images: torch.Tensor) -> Cost:
    """Measures a model on the CPU. The peak is only honest in a process that has not yet run anything as large."""
    training_pass(model, images[:1, :, :32, :32])  # loads libraries and their caches
    before = _start_peak()
    training_pass(model, images)
    peak = _peak()
    saved = saved_bytes(model.train(), images)
    step_ms = _median_ms(lambda: training_pass(model, images))
    model.eval()
    with torch.inference_mode():
        forward_ms = _median_ms(lambda: model(images))
    return Cost(forward_ms, step_ms, None if peak is None or before is None else peak - before, saved)


def training_pass(model: nn.Module, images: torch.Tensor) -> None:
    model.train().zero_grad()
    model(images).square().mean().backward()


def measure_apart(
    implementation: str, model: str, size: tuple[int, int], batch: int, threads: int | None = None
) -> Cost:
    """``measure`` in a fresh process. ``implementation`` is ``ours`` or ``torch`` (``segnet_ext.reference``)."""
    arguments = [implementation, model, f"{size[0]}x{size[1]}", str(batch), str(threads or torch.get_num_threads())]
    done = subprocess.run(
        [sys.executable, "-m", "segnet_ext.measure", *arguments],
        cwd=Path(__file__).parents[1],  # not the caller's: in a source folder, that would import the sources
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"measuring {implementation} {model} failed: {done.stderr.strip()}")
    return Cost(**json.loads(done.stdout))


def _median_ms(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


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


def _main() -> None:
    import segnet_ext
    from segnet_ext import reference

    implementation, name, size, batch, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    package = segnet_ext if implementation == "ours" else reference
    model = {"segnet": package.SegNet, "segnet-basic": package.SegNetBasic}[name](11)
    height, width = (int(side) for side in size.split("x"))
    images = torch.randn(int(batch), 3, height, width).contiguous(memory_format=torch.channels_last)
    print(json.dumps(asdict(measure(model, images))))


if __name__ == "__main__":
    _main()
