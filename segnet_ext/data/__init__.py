"""Images and label maps: CamVid's published layout, folders of one's own, and drawn street scenes."""

from segnet_ext.errors import require

require("segnet_ext.data", "PIL")

from segnet_ext.classes import CAMVID, ClassSet  # noqa: E402
from segnet_ext.data.augment import Augmentation  # noqa: E402
from segnet_ext.data.camvid import camvid_dataset  # noqa: E402
from segnet_ext.data.dataset import (  # noqa: E402
    EpochSampler,
    FileDataset,
    Loader,
    MemoryDataset,
    SegmentationDataset,
)
from segnet_ext.data.synthetic import draw_scene, synthetic_dataset  # noqa: E402

__all__ = [
    "CAMVID",
    "Augmentation",
    "ClassSet",
    "EpochSampler",
    "FileDataset",
    "Loader",
    "MemoryDataset",
    "SegmentationDataset",
    "camvid_dataset",
    "draw_scene",
    "synthetic_dataset",
]
