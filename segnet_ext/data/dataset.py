"""Data sets of images with label maps, and the loader that makes the same batches with any number of workers."""

from __future__ import annotations

import functools
import hashlib
import math
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from segnet_ext.classes import ClassSet
from segnet_ext.data.augment import Augmentation
from segnet_ext.data.images import Bytes, image_size, read_image, read_label, resize_image, resize_label
from segnet_ext.data.labels import LabelTable
from segnet_ext.distributed import ALONE, Processes
from segnet_ext.errors import InputError

# A sample's index, and the seed of what happens to it (None: nothing).
Key = tuple[int, tuple[int, ...] | None]
Batch = tuple[torch.Tensor, torch.Tensor]


class SegmentationDataset(Dataset[Batch], ABC):
    """Images with label maps of ``classes``; item i is the pair of tensors of ``load(i)``."""

    classes: ClassSet

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, index: int, scale: float = 1.0) -> tuple[Bytes, Bytes]:
        """The image, uint8 RGB [H, W, 3], and its label map, uint8 [H, W], ``scale`` times their usual size."""

    @abstractmethod
    def sample_size(self, index: int) -> tuple[int, int]:
        """(height, width) of the sample at ``scale`` 1."""

    @abstractmethod
    def load_label(self, index: int) -> Bytes:
        """The label map alone, in its stored size, uint8 [H, W]."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Tells apart data sets that would make different training runs; does not depend on where the files lie."""

    def name(self, index: int) -> str:
        """What to call the sample."""
        return f"image {index}"

    def __getitem__(self, index: int) -> Batch:
        return _tensors(self.load(index))


def _tensors(sample: tuple[Bytes, Bytes]) -> Batch:
    image, label = sample
    return torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(np.ascontiguousarray(label))


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


class FileDataset(SegmentationDataset):
    """Pairs of an image file and a label file.

    Args:
        pairs: paths of an image and its labels.
        classes: what the labels mean.
        size: (height, width) that samples are resized to; None keeps each as stored.
        labels: what the pixels of label files stand for; None takes their values as they are, 0 to K-1, or K for void.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        classes: ClassSet,
        size: tuple[int, int] | None = None,
        labels: LabelTable | None = None,
    ) -> None:
        self.pairs = list(pairs)
        self.classes = classes
        self.size = size
        self.labels = labels

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index][0].name

    def check_files(self) -> None:
        """Opens every file's header, so that a missing or mismatched file is found before training starts."""
        for image, label in self.pairs:
            stored, labelled = image_size(image), image_size(label)
            if stored != labelled:
                raise InputError(
                    f"{image} is {stored[0]}x{stored[1]} but its annotation {label} is {labelled[0]}x{labelled[1]} "
                    "(height x width)"
                )

    def load(self, index: int, scale: float = 1.0) -> tuple[Bytes, Bytes]:
        image, label = read_image(self.pairs[index][0]), self.load_label(index)
        # Once, from the stored pixels: a sample enlarged over ``size`` keeps the detail that the file has.
        size = _scaled(self.size or label.shape, scale)
        return resize_image(image, size), resize_label(label, size)

    def sample_size(self, index: int) -> tuple[int, int]:
        return self.size or image_size(self.pairs[index][1])

    def load_label(self, index: int) -> Bytes:
        path = self.pairs[index][1]
        return read_label(path, len(self.classes)) if self.labels is None else self.labels.read(path)

    def fingerprint(self) -> str:
        lines = [f"{image.parent.name}/{image.name} {label.parent.name}/{label.name}" for image, label in self.pairs]
        if self.labels is not None:
            lines += [*self.classes.names, self.labels.key()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class MemoryDataset(SegmentationDataset):
    """Images and labels held in memory."""

    def __init__(self, images: Sequence[Bytes], labels: Sequence[Bytes], classes: ClassSet) -> None:
        self.images = list(images)
        self.labels = list(labels)
        self.classes = classes

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int, scale: float = 1.0) -> tuple[Bytes, Bytes]:
        size = _scaled(self.sample_size(index), scale)
        return resize_image(self.images[index], size), resize_label(self.labels[index], size)

    def sample_size(self, index: int) -> tuple[int, int]:
        height, width = self.labels[index].shape
        return height, width

    def load_label(self, index: int) -> Bytes:
        return self.labels[index]

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for array in (*self.images, *self.labels):
            digest.update(repr(array.shape).encode() + array.tobytes())
        return digest.hexdigest()


class EpochSampler(Sampler[Key]):
    """Shuffles, and seeds what happens to each sample, by (seed, epoch) alone.

    So an epoch is the same in any process, with any number of workers and after any resume.

    Without a seed the samples come in order, unchanged.
    """

    def __init__(self, length: int, seed: int | None) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Key]:
        if self.seed is None:
            yield from ((index, None) for index in range(self.length))
            return
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        yield from ((index, (self.seed, self.epoch, index)) for index in order.tolist())


class _BatchSampler(Sampler[list[Key]]):
    """Batches of the sampler's keys, from batch ``start`` on: of each, what this process loads."""

    def __init__(self, sampler: EpochSampler, batch_size: int, processes: Processes) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.processes = processes
        self.start = 0

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.batch_size) - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        keys = list(self.sampler)
        for first in range(self.start * self.batch_size, len(keys), self.batch_size):
            yield keys[first : first + self.batch_size][self.processes.rank :: self.processes.size]


class _Augmented(Dataset[Batch | InputError]):
    """Augments by the key's seed. Hands an InputError on as an item: raised inside a worker it would come back as text
    of a traceback."""

    def __init__(self, dataset: SegmentationDataset, augmentation: Augmentation | None) -> None:
        self.dataset = dataset
        self.augmentation = augmentation

    def __getitem__(self, key: Key) -> Batch | InputError:
        index, seed = key
        try:
            if self.augmentation is None or seed is None:
                return self.dataset[index]
            sample = self.augmentation.apply(
                functools.partial(self.dataset.load, index),
                self.dataset.sample_size(index),
                self.dataset.classes.void,
                np.random.default_rng(seed),
            )
            return _tensors(sample)
        except InputError as error:
            return error


def _collate(items: list[Batch | InputError]) -> Batch | InputError | None:
    batch = []
    for item in items:
        if isinstance(item, InputError):
            return item
        batch.append(item)
    if not batch:
        return None
    images, labels = zip(*batch, strict=True)
    return torch.stack(images), torch.stack(labels).long()


def _leave_interrupts_to_main(worker: int) -> None:
    """Ctrl-C goes to the workers too, and the main process may still want the batches that it asked them for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Loader:
    """Batches of a data set whose samples are of one size: images uint8 [N, H, W, 3], labels int64 [N, H, W].

    Shuffles and augments when ``seed`` is given, and otherwise goes through the data in order. Set ``sampler.epoch``
    before each epoch. The batches do not depend on ``workers``.

    Where several processes share the work, ``batch_size`` is that of all of them, and process r of P has the images r,
    r + P, r + 2P and so on of each batch; of a short last batch perhaps none.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        batch_size: int,
        seed: int | None = None,
        workers: int = 0,
        augmentation: Augmentation | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.processes = processes
        self.sampler = EpochSampler(len(dataset), seed)
        self._sampler = _BatchSampler(self.sampler, batch_size, processes)
        self._batches = DataLoader(
            _Augmented(dataset, augmentation),
            batch_sampler=self._sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_collate,
            worker_init_fn=_leave_interrupts_to_main,
            # Without its own generator the loader would draw from the global one, which the model may use too.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.from_batch(0)

    def from_batch(self, start: int) -> Iterator[Batch]:
        """The batches but for the first ``start``, whose samples are not loaded."""
        self._sampler.start = start
        for batch in self._batches:
            if isinstance(batch, InputError):
                raise batch
            yield self._empty() if batch is None else batch

    def _empty(self) -> Batch:
        image, label = self.dataset[0]
        return image[None][:0], label[None][:0].long()
