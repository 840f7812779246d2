"""The roofline that docs/performance.md shows: GPUs, SegNet's stages, and what each kernel must move and compute.

A floor is what a kernel takes at least: every byte once at the memory's peak rate, or every operation at the peak rate
of the units that do it, whichever is longer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """Peak rates, dense (without 2:4 sparsity)."""

    name: str
    arch: str
    bandwidth: float  # bytes a second
    float32: float  # operations a second without matrix units
    tensor: dict[str, float]  # by dtype, sums in float32
    cache: float  # bytes of level 2
    source: str


TERA, GIGA = 1e12, 1e9
GPUS = [
    Gpu(
        "A100",
        "8.0",
        2039 * GIGA,
        19.5 * TERA,
        {"tf32": 156 * TERA, "fp16": 312 * TERA},
        40 * 2**20,
        "A100 80GB SXM: NVIDIA A100 Tensor Core GPU Architecture (whitepaper) and the A100 80GB data sheet",
    ),
    Gpu(
        "H100",
        "9.0",
        3352 * GIGA,
        66.9 * TERA,
        {"tf32": 494.7 * TERA, "fp16": 989.4 * TERA},
        50 * 2**20,
        "H100 SXM5: NVIDIA H100 Tensor Core GPU Architecture (whitepaper)",
    ),
    Gpu(
        "RTX 4090",
        "8.9",
        1008 * GIGA,
        82.6 * TERA,
        {"tf32": 82.6 * TERA, "fp16": 165.2 * TERA},
        72 * 2**20,
        "NVIDIA Ada GPU Architecture (whitepaper); fp16 with sums in float32, which is half the rate with sums in fp16",
    ),
]
BYTES = {"tf32": 4, "fp16": 2}
DTYPE_NAMES = {"tf32": "float32 (tf32 in convolutions)", "fp16": "float16 or bfloat16"}

WIDTHS = (64, 128, 256, 512, 512)  # of SegNet's stages: of the pools' inputs and of the first decoder convolutions
HEIGHT, WIDTH, KERNEL = 360, 480, 3
INDEX_BYTES = 8


@dataclass(frozen=True)
class Stage:
    """A pool at a stage, and the unpooling that undoes it; pooling rounds up."""

    number: int
    channels: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def windows(self) -> int:
        return -(-self.height // 2) * -(-self.width // 2)


def stages() -> list[Stage]:
    """SegNet's five stages for one image."""
    result, height, width = [], HEIGHT, WIDTH
    for number, channels in enumerate(WIDTHS, start=1):
        result.append(Stage(number, channels, height, width))
        height, width = -(-height // 2), -(-width // 2)
    return result


@dataclass(frozen=True)
class Work:
    """One kernel: what it reads and writes at least, each byte once, and what it computes."""

    name: str
    bytes: float
    operations: float
    tensor: bool = False

    def floor(self, gpu: Gpu, dtype: str, tensor_share: float = 1.0) -> float:
        """Microseconds; ``tensor_share``: what the matrix units reach of their dense peak."""
        share = tensor_share if self.tensor else 1.0
        return 1e6 * max(self.bytes / gpu.bandwidth, self.operations / self.rate(gpu, dtype) / share)

    def rate(self, gpu: Gpu, dtype: str) -> float:
        return gpu.tensor[dtype] if self.tensor else gpu.float32

    def limiter(self, gpu: Gpu, dtype: str) -> str:
        return "memory" if self.bytes / gpu.bandwidth >= self.operations / self.rate(gpu, dtype) else "arithmetic"


class Sizes:
    """Bytes of the tensors of a stage."""

    def __init__(self, stage: Stage, batch: int, dtype: str) -> None:
        element, c = BYTES[dtype], stage.channels
        self.halves = element == 2
        self.elements = batch * stage.pixels * c
        self.pooled_elements = batch * stage.windows * c
        self.map = self.elements * element
        self.pooled = self.pooled_elements * element
        self.codes = batch * stage.windows * -(-c // 4)
        self.indices = self.pooled_elements * INDEX_BYTES
        self.weight = KERNEL**2 * c * c * element
        self.conv = 2 * batch * stage.pixels * KERNEL**2 * c * c


Plan = Callable[[Sizes], Sequence[Work]]

# Operations without matrix units are counted by element: a subtraction and two multiply-adds for the statistics, a
# multiply-add, ReLU and a comparison for the forward pass, and so on. They never decide.


def bn_stats(s: Sizes) -> Work:
    return Work("statistics", s.map, 5 * s.elements)


def bn_inference(s: Sizes) -> list[Work]:
    return [Work("forward", s.map + s.pooled + s.codes, 4 * s.elements)]


def bn_forward(s: Sizes) -> list[Work]:
    return [bn_stats(s), *bn_inference(s)]


def bn_backward(s: Sizes) -> list[Work]:
    # The winner's pixel is wanted of each window and channel. Neighbouring channels have other winners, and memory
    # moves 32 bytes at a time, so the whole map is read; in full precision the output says as much of the winners.
    read = s.map + s.pooled + s.codes
    return [
        Work("backward: sums", read if s.halves else 2 * s.pooled, 8 * s.pooled_elements),
        Work("backward: grad_input", read + s.map, 6 * s.elements),
    ]


def torch_bn_inference(s: Sizes) -> list[Work]:
    return [
        Work("normalise", 2 * s.map, 2 * s.elements),
        Work("ReLU", 2 * s.map, s.elements),
        Work("pool", s.map + s.pooled + s.indices, s.elements),
    ]


def torch_bn_forward(s: Sizes) -> list[Work]:
    return [bn_stats(s), *torch_bn_inference(s)]


def torch_pool_backward(s: Sizes) -> list[Work]:
    return [
        Work("pool backward: zero", s.map, 0),
        Work("pool backward: scatter", 2 * s.pooled + s.indices, s.pooled_elements),
    ]


def torch_bn_backward(s: Sizes) -> list[Work]:
    return [
        *torch_pool_backward(s),
        Work("ReLU backward", 3 * s.map, s.elements),
        Work("BatchNorm backward: sums", 2 * s.map, 4 * s.elements),
        Work("BatchNorm backward: grad_input", 3 * s.map, 5 * s.elements),
    ]


def pool_forward(s: Sizes) -> list[Work]:
    return [Work("forward", s.map + s.pooled + s.codes, s.elements)]


def pool_backward(s: Sizes) -> list[Work]:
    return [Work("backward", s.map + s.pooled + s.codes, s.elements)]


def torch_pool_forward(s: Sizes) -> list[Work]:
    return [Work("pool", s.map + s.pooled + s.indices, s.elements)]


def conv_forward(s: Sizes) -> list[Work]:
    return [Work("forward", s.pooled + s.codes + s.weight + s.map, s.conv, tensor=True)]


def conv_backward(s: Sizes) -> list[Work]:
    return [
        Work("grad_input", s.map + s.codes + s.weight + s.pooled, s.conv, tensor=True),
        Work("grad_weight", s.map + s.codes + s.pooled + s.weight, s.conv, tensor=True),
    ]


def torch_conv_forward(s: Sizes) -> list[Work]:
    return [
        Work("unpool: zero", s.map, 0),
        Work("unpool: scatter", 2 * s.pooled + s.indices, 0),
        Work("convolution", 2 * s.map + s.weight, s.conv, tensor=True),
    ]


def torch_conv_backward(s: Sizes) -> list[Work]:
    return [
        Work("grad_input of the convolution", 2 * s.map + s.weight, s.conv, tensor=True),
        Work("unpool backward", s.map + s.indices + s.pooled, 0),
        Work("grad_weight", 2 * s.map + s.weight, s.conv, tensor=True),
    ]


@dataclass(frozen=True)
class Step:
    """A direction of an operation, by our kernels and by torch's."""

    op: str
    direction: str
    batch: int
    ours: Plan
    torchs: Plan


STEPS = [
    Step("bn_relu_max_pool2d", "inference", 1, bn_inference, torch_bn_inference),
    Step("max_pool2d_with_codes", "forward", 1, pool_forward, torch_pool_forward),
    Step("max_unpool2d_conv2d", "forward", 1, conv_forward, torch_conv_forward),
    Step("bn_relu_max_pool2d", "training forward", 4, bn_forward, torch_bn_forward),
    Step("bn_relu_max_pool2d", "backward", 4, bn_backward, torch_bn_backward),
    Step("max_pool2d_with_codes", "forward", 4, pool_forward, torch_pool_forward),
    Step("max_pool2d_with_codes", "backward", 4, pool_backward, torch_pool_backward),
    Step("max_unpool2d_conv2d", "forward", 4, conv_forward, torch_conv_forward),
    Step("max_unpool2d_conv2d", "backward", 4, conv_backward, torch_conv_backward),
]


def floor(plan: Plan, stage: Stage, batch: int, gpu: Gpu, dtype: str, tensor_share: float = 1.0) -> float:
    """Of kernels that run one after the other."""
    return sum(work.floor(gpu, dtype, tensor_share) for work in plan(Sizes(stage, batch, dtype)))


def ratios(step: Step, dtype: str) -> list[float]:
    """torch's floor by ours, for all stages and GPUs."""
    return [
        floor(step.torchs, stage, step.batch, gpu, dtype) / floor(step.ours, stage, step.batch, gpu, dtype)
        for stage in stages()
        for gpu in GPUS
    ]


def find(op: str, direction: str, batch: int = 4) -> Step:
    return next(step for step in STEPS if (step.op, step.direction, step.batch) == (op, direction, batch))
