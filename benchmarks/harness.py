"""How the benchmarks measure: what is compared, in which order, and where each number comes from.

A bench file names its ``SHAPES`` and ``DIRECTIONS`` and has one function ``build(variant, direction, shape, target)``
that returns a :class:`Step`. For each (shape, direction) all variants are built once, their results are compared with
plain torch ("torch"), and then they run in turn, round after round, so that a busy moment of the machine hits all of
them alike. The medians of those rounds are what is reported, by pytest and by cpu_report.py, which finds bench files by
their names. A turn on the CPU, unless its step is long, is the mean of as many runs as fill some milliseconds, after
one run and as many again that do not count: they find in the caches what the step's own runs left there, as a layer
finds what the one before it has just written, and not what some other variant left, and they do not pay for the memory
which that one freed and malloc gives back to the system during somebody's next calls. A bench file may also have

    SMALL               shapes at which the overhead of a call is measured
    BFLOAT16            directions that run in bfloat16 too on the CPU
    REPORT              {direction: names of the shapes} of cpu_report.py, instead of all
    TOLERANCES          {variant: tolerance} where one differs from TOLERANCE
    peers(direction)    further variants
    multiply_adds(direction, shape)    of the dense computation, for the roofline
    bytes_moved(direction, shape)      of float32 maps and codes that a kernel has to read and write, for another

Two more numbers stand beside the time. ``saved_bytes``: the distinct storages that the step's forward keeps for
backward, parameters not counted (``torch.autograd.graph.saved_tensors_hooks``). ``peak_bytes``: how far the resident
memory of a fresh process rises above what it held before while one step runs (``segnet_ext.measure.peak_of``; a step on
tiny tensors before it loads code and starts threads); None where the system does not tell. Processes are forked from a
server that has imported torch and computed nothing.

On a GPU a round is timed by events on its stream. Before each the level-2 cache is overwritten and the GPU is kept busy
for a moment, so that what is timed begins with a cold cache and a queue in which the step's first kernels already wait.
``peak_bytes`` then is the rise of ``torch.cuda.max_memory_allocated`` over what was allocated before the step.
"""

import gc
import importlib.util
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import segnet_ext
from segnet_ext.measure import peak_of, processor

# What the encoder's pools take, [N, C, H, W], and the decoder's unpooling gives back, for one 360x480 image.
STAGES = {
    "stage1": (1, 64, 360, 480),
    "stage2": (1, 128, 180, 240),
    "stage3": (1, 256, 90, 120),
    "stage4": (1, 512, 45, 60),
    "stage5": (1, 512, 23, 30),
}
SMALL_SIDES = (32, 8, 2)  # maps of a 32x32 image, where a call costs more than its arithmetic
VARIANTS = ["ours", "torch", "torch channels_last"]
COMPILED = "torch.compile"
AUTOCAST = "torch bf16 autocast"  # of a float32 model: less precise, hence shown and not counted among the peers
WARM_SECONDS = 0.1  # a step that takes longer has long replaced what the caches held
TURN_SECONDS = 5e-3
MIN_ROUNDS, MAX_ROUNDS = 3, 100
# A peer whose first run takes so many times the fastest peer's, and seconds, is not run again: minutes would go into
# the median of something that is no rival.
HOPELESS, HOPELESS_SECONDS = 4, 2.0
COLD_CACHE_BYTES = 256 * 2**20  # more than any level-2 cache
HEAD_START_CYCLES = 2_000_000  # about a millisecond of a GPU


@dataclass(frozen=True)
class Target:
    """Where a group runs and in which type. Models keep float32 parameters and run under autocast instead."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    def place(self, tensor: torch.Tensor, layout: torch.memory_format | None = None) -> torch.Tensor:
        """The tensor on the device, floating-point ones in the dtype. Values are made on the CPU, the same for all."""
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.device, dtype, memory_format=layout or torch.preserve_format)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def why_not(device: str) -> str | None:
    """What keeps benchmarks from running on the device."""
    if device != "cuda":
        return None
    if not torch.cuda.is_available():
        return "--device cuda needs a CUDA device, and torch sees none"
    if not segnet_ext.build_info()["cuda"]:
        return "--device cuda needs segnet_ext built with CUDA, and this one is not: see the README, With CUDA"
    return None


@dataclass(frozen=True)
class Step:
    """``run`` is timed and returns the tensors to compare; ``forward`` records the graph that backward needs."""

    run: Callable[[], Sequence[torch.Tensor]]
    forward: Callable[[], object] | None = None
    parameters: Sequence[torch.Tensor] = ()


@dataclass
class Result:
    """One variant of one group."""

    seconds: list[float] = field(default_factory=list)
    cold_seconds: list[float] = field(default_factory=list)  # straight after other variants' runs; on demand
    saved_bytes: int | None = None
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class ReplayClock:
    """A timer for pytest-benchmark that has advanced by what a round took when the variants ran in turn."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def rounds(self, seconds: Sequence[float]) -> Callable[[], None]:
        """A function that takes each of ``seconds`` in its turn."""
        remaining = iter(seconds)

        def advance() -> None:
            self.now += next(remaining)

        return advance


def layout_of(variant: str, target: Target | None = None) -> torch.memory_format:
    """The layout of a variant's maps and weights. torch.compile gets the one that its convolutions prefer."""
    halves = target is not None and target.dtype != torch.float32
    contiguous = variant == "torch" or (variant == COMPILED and not halves)
    return torch.contiguous_format if contiguous else torch.channels_last


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """For one shape: torch would make the second one's sizes variables, and its code slower."""
    return torch.compile(function, dynamic=False)


def targets(module: ModuleType, direction: str, device: str) -> list[Target]:
    """What a direction of a bench file runs for. One without floating-point input (EXACT) has no other dtype."""
    dtypes = [torch.float32]
    if device == "cuda" and not getattr(module, "EXACT", False):
        dtypes.append(torch.float16)
    if device == "cpu" and direction in getattr(module, "BFLOAT16", ()):
        dtypes.append(torch.bfloat16)
    return [Target(torch.device(device), dtype) for dtype in dtypes]


def variants(module: ModuleType, direction: str, target: Target, compile: bool) -> list[str]:
    """Ours, torch as it is, and the further peers of a bench file, which are the CPU's."""
    on_cpu = target.device.type == "cpu"
    # A bfloat16 convolution in the contiguous layout takes torch a minute where the CPU has no instructions for it.
    names = [name for name in VARIANTS if name != "torch" or not on_cpu or target.dtype != torch.bfloat16]
    names += [COMPILED] if compile else []
    return names + (module.peers(direction) if on_cpu and hasattr(module, "peers") else [])


def baseline(results: Mapping[str, Any]) -> str:
    """The plainest of the variants, which the others have to agree with."""
    return "torch" if "torch" in results else "torch channels_last"


def check(
    results: dict[str, Sequence[torch.Tensor]],
    tolerance: float,
    truth: Sequence[torch.Tensor] | None = None,
    tolerances: Mapping[str, float] | None = None,
) -> None:
    """Every variant's tensors lie within its ``tolerance`` of plain torch's, in the norm of their difference.

    With a ``truth`` that torch only comes near to, a variant's distance from it is at most twice torch's, and
    ``tolerance`` more.
    """
    torchs = results[baseline(results)]
    for variant, tensors in results.items():
        for i, (actual, wanted) in enumerate(zip(tensors, truth or torchs, strict=True)):
            error, limit = _distance(actual, wanted), (tolerances or {}).get(variant, tolerance)
            if truth is not None:
                limit += 2 * _distance(torchs[i], wanted)
            if not error <= limit:
                raise AssertionError(f"{variant}: result {i} is off by {error:.2g} of its norm, more than {limit:.2g}")


def _distance(actual: torch.Tensor, wanted: torch.Tensor) -> float:
    actual, wanted = actual.double(), wanted.to(actual.device).double()
    return float((actual - wanted).norm() / wanted.norm().clamp(min=1e-30))


def saved_bytes(step: Step) -> int | None:
    """Bytes that the step's forward keeps for backward."""
    if step.forward is None:
        return None
    known = {parameter.untyped_storage().data_ptr() for parameter in step.parameters}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = step.forward()
    total = sum(storage.nbytes() for storage in storages.values())
    del graph
    return total


def _time_on_cpu(step: Step, calls: int = 1) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        result = step.run()
    seconds = time.perf_counter() - begin
    del result
    return seconds / calls


def _turn_on_cpu(step: Step) -> float:
    seconds = _time_on_cpu(step)
    if seconds >= WARM_SECONDS:
        return seconds
    calls = max(1, round(TURN_SECONDS / seconds))
    _time_on_cpu(step, calls)
    return _time_on_cpu(step, calls)


def cold_turn(step: Step) -> float:
    """Seconds of a single run on the CPU, which finds the caches as the step before left them."""
    return _time_on_cpu(step)


def second_run(step: Step) -> float:
    """Seconds on the CPU of the second of two runs, however long they are."""
    step.run()
    return _time_on_cpu(step)


def _time_on_cuda(step: Step) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.empty(COLD_CACHE_BYTES, dtype=torch.uint8, device="cuda").zero_()
    torch.cuda._sleep(HEAD_START_CYCLES)
    start.record()
    result = step.run()
    end.record()
    end.synchronize()
    del result
    return start.elapsed_time(end) / 1e3


def _warm_up(variant: str, step: Step, device: torch.device) -> tuple[Sequence[torch.Tensor], float]:
    """The step's result, and about how long it takes. A first run of seconds tells that too, unless it compiled."""
    begin = time.perf_counter()
    result = step.run()
    seconds = time.perf_counter() - begin
    if device.type == "cuda":
        return result, _time_on_cuda(step)
    if variant == COMPILED or seconds < HOPELESS_SECONDS:
        return result, _time_on_cpu(step)
    return result, seconds


def time_in_turn(
    steps: Mapping[str, Step], budget: float, device: torch.device, turn: Callable[[Step], float] | None = None
) -> dict[str, list[float]]:
    """Seconds of one run of each step in rounds of a turn each, as many rounds as fit into ``budget`` seconds.

    Args:
        turn: seconds of a step's turn on the CPU, where it is not the usual one.
    """
    time_step = _time_on_cuda if device.type == "cuda" else (turn or _turn_on_cpu)
    seconds: dict[str, list[float]] = {variant: [] for variant in steps}
    start = time.perf_counter()
    rounds = 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() - start < budget):
        order = list(steps.items())
        # Alternating the order keeps a variant from always following the same neighbour's caches.
        for variant, step in order if rounds % 2 == 0 else reversed(order):
            seconds[variant].append(time_step(step))
        rounds += 1
    return seconds


def best_peer(seconds: Mapping[str, float]) -> str:
    """The fastest of what computes in the same precision as ours."""
    return min((variant for variant in seconds if variant not in ("ours", AUTOCAST)), key=lambda name: seconds[name])


def load_module(path: str) -> ModuleType:
    """A bench file as a module, by its path: pytest's own module names mean nothing to another process."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _send_peak(
    connection: Connection, path: str, variant: str, direction: str, shape: Sequence[int], target: Target, threads: int
) -> None:
    torch.set_num_threads(threads)
    module = load_module(path)
    step = module.build(variant, direction, module.TINY, target)
    step.run()
    if tuple(shape) != tuple(module.TINY):
        step = module.build(variant, direction, shape, target)
    connection.send(peak_of(step.run)[0])


def cuda_peak_bytes(step: Step) -> int:
    """Rise of the GPU memory in use while one step runs."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = step.run()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def peak_bytes(path: str, variant: str, direction: str, shape: Sequence[int], target: Target) -> int | None:
    """Rise of the resident memory while a fresh process runs one step."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "segnet_ext"])
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, path, variant, direction, tuple(shape), target, torch.get_num_threads())
    process = context.Process(target=_send_peak, args=arguments)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(f"{variant} ended with code {process.exitcode} while its memory was measured") from error
    finally:
        process.join()


def measure(
    module: ModuleType,
    direction: str,
    shape: Sequence[int],
    variants: Sequence[str],
    budget: float,
    target: Target,
    peaks: bool = True,
    cold_budget: float | None = None,
) -> dict[str, Result]:
    """Checks, times and weighs every variant of one group; {variant: Result}.

    Args:
        peaks: weigh peaks too, which takes a process for each variant on the CPU.
        cold_budget: seconds for further rounds, of cold turns; None: none.
    """
    torch.compiler.reset()  # past a few shapes of one function, torch would leave further ones uncompiled
    steps = {variant: module.build(variant, direction, shape, target) for variant in variants}
    truth = None
    if target != Target():  # halves round, and convolutions on a GPU use tf32
        truth = module.build("torch", direction, shape, Target()).run()
    firsts = {variant: _warm_up(variant, step, target.device) for variant, step in steps.items()}
    tensors = {variant: result for variant, (result, _) in firsts.items()}
    first_seconds = {variant: seconds for variant, (_, seconds) in firsts.items()}
    check(tensors, module.TOLERANCE, truth, getattr(module, "TOLERANCES", None))
    del firsts, tensors, truth
    gc.collect()
    limit = max(HOPELESS * first_seconds[best_peer(first_seconds)], HOPELESS_SECONDS)
    rivals = {variant: step for variant, step in steps.items() if variant == "ours" or first_seconds[variant] <= limit}
    seconds = time_in_turn(rivals, budget, target.device)
    results = {variant: Result(seconds.get(variant, [first_seconds[variant]])) for variant in steps}
    if cold_budget is not None:
        for variant, cold in time_in_turn(rivals, cold_budget, target.device, cold_turn).items():
            results[variant].cold_seconds = cold
    # The memory of a process that also compiles, or holds an ONNX graph, says nothing about the step.
    weighed = [variant for variant in variants if variant in VARIANTS]
    for variant in weighed:
        results[variant].saved_bytes = saved_bytes(steps[variant])
        if target.device.type == "cuda":
            results[variant].peak_bytes = cuda_peak_bytes(steps[variant])
    steps.clear()
    rivals.clear()
    if target.device.type == "cpu" and peaks:
        for variant in weighed:
            results[variant].peak_bytes = peak_bytes(module.__file__, variant, direction, shape, target)
    return results


def environment(device: str) -> dict[str, object]:
    """What the numbers depend on."""
    info = segnet_ext.build_info()
    on_cuda = {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32 in convolutions": torch.backends.cudnn.allow_tf32,
    }
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu, {processor()}",
        **(on_cuda if device == "cuda" else {}),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "segnet_ext": segnet_ext.__version__,
        "simd": info["simd"],
        "compiler": info["compiler"],
    }
