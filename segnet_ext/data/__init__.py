"""Images and label maps: CamVid, SUN RGB-D, any folder with a ``classes.json``, and drawn street scenes."""

from segnet_ext.errors import require

require("segnet_ext.data", "PIL")

from segnet_ext.classes import CAMVID, CAMVID32, CAMVID32_TO_11, SUNRGBD, ClassSet, palette  # noqa: E402
from segnet_ext.data.augment import Augmentation  # noqa: E402
from segnet_ext.data.camvid import camvid32_dataset, camvid32_to_11_dataset, camvid_dataset  # noqa: E402
from segnet_ext.data.dataset import (  # noqa: E402
    EpochSampler,
    FileDataset,
    Loader,
    MemoryDataset,
    SegmentationDataset,
)
from segnet_ext.data.folder import folder_dataset  # noqa: E402
from segnet_ext.data.labels import ColorLabels, LabelTable, ValueLabels  # noqa: E402
from segnet_ext.data.layouts import DATASETS, detect_dataset, open_dataset  # noqa: E402
from segnet_ext.data.sunrgbd import sunrgbd_dataset  # noqa: E402
from segnet_ext.data.synthetic import draw_scene, synthetic_dataset  # noqa: E402

__all__ = [
    "CAMVID",
    "CAMVID32",
    "CAMVID32_TO_11",
    "DATASETS",
    "SUNRGBD",
    "Augmentation",
    "ClassSet",
    "ColorLabels",
    "EpochSampler",
    "FileDataset",
    "LabelTable",
    "Loader",
    "MemoryDataset",
    "SegmentationDataset",
    "ValueLabels",
    "camvid32_dataset",
    "camvid32_to_11_dataset",
    "camvid_dataset",
    "detect_dataset",
    "draw_scene",
    "folder_dataset",
    "open_dataset",
    "palette",
    "sunrgbd_dataset",
    "synthetic_dataset",
]
