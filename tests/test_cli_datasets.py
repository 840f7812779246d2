"""The choice of a data set: by its folder, and by ``--dataset`` on the command line."""

import json

import numpy as np
import pytest
from data_files import SIZE, error_of, save, write_folder
from PIL import Image

from segnet_ext.checkpoint import read_checkpoint
from segnet_ext.cli import _options, main
from segnet_ext.data import DATASETS, detect_dataset, open_dataset, palette
from segnet_ext.data.images import read_image


@pytest.mark.parametrize(
    "name, file",
    [
        ("camvid", "train.txt"),
        ("camvid32", "LabeledApproved_full/a_L.png"),
        ("sunrgbd", "SUNRGBDtoolbox/Metadata/SUNRGBDMeta.mat"),
        ("sunrgbd", "label37/train/00000001.png"),
        ("sunrgbd", "sunrgbd_train_test_labels/img-000001.png"),
        ("folder", "classes.json"),
    ],
)
def test_a_folder_is_known_by_its_files(tmp_path, name, file):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    if name != "camvid":
        (tmp_path / "train.txt").write_text("")
    assert detect_dataset(tmp_path) == name


def test_unknown_layout(tmp_path):
    assert "the data folder" in error_of(detect_dataset, tmp_path / "nowhere")
    message = error_of(open_dataset, tmp_path, "train")
    assert message.startswith(f"{tmp_path} holds no known data set: it has none of train.txt")
    with pytest.raises(ValueError, match="name must be one of camvid, camvid32"):
        open_dataset(tmp_path, "train", name="cityscapes")
    assert tuple(DATASETS) == _options.DATASETS


def test_command_line_on_a_folder(tmp_path, capsys, thread_count):
    classes = [{"name": "grass", "value": 2, "color": [9, 99, 9]}, {"name": "path", "value": 4}]
    content = {"classes": classes, "void": [0]}
    label = np.full(SIZE, 2, np.uint8)
    label[10:14], label[0] = 4, 0
    data = tmp_path / "data"
    for split in ("train", "val"):
        write_folder(data, content, [label, label, label[::-1]], split)
    out = tmp_path / "out"
    train = ["train", "--data", str(data), "--out", str(out), "--workers", "0", "--threads", "1"]
    fresh = ["--model", "segnet-basic", "--size", "16x24", "--batch-size", "3"]
    assert main([*train, *fresh, "--epochs", "1"]) == 0
    assert main([*train, "--resume", "--dataset", "camvid", "--epochs", "2"]) == 2
    assert "--dataset camvid differs from the run to resume, which has folder" in capsys.readouterr().err
    assert main([*train, "--resume", "--epochs", "1"]) == 0
    assert "already has 1 epochs" in capsys.readouterr().err
    checkpoint = read_checkpoint(out / "last.pt")
    assert checkpoint.classes.names == ("grass", "path") and checkpoint.classes.colors == ((9, 99, 9), palette(2)[1])

    evaluate = ["eval", "--data", str(data), "--weights", str(out / "last.pt"), "--workers", "0", "--threads", "1"]
    assert main([*evaluate, "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [row["class"] for row in scores["classes"]] == ["grass", "path"]
    # 16 of the 24 rows are left at 16x24, and one of them is void.
    assert sum(row["pixels"] for row in scores["classes"]) == 3 * 15 * 24
    assert main([*evaluate, "--dataset", "sunrgbd"]) == 2
    assert "none of SUN RGB-D's folders for train" in capsys.readouterr().err

    image = data / "val" / "images" / "0.jpg"
    assert main(["predict", str(image), "--weights", str(out / "last.pt"), "--out", str(out), "--threads", "1"]) == 0
    predicted = np.array(Image.open(out / "0_label.png"))
    blend = np.array(Image.open(out / "0_overlay.png")).astype(float)
    assert predicted.shape == SIZE and predicted.max() <= 1
    colors = np.array(checkpoint.classes.colors, float)[predicted]
    assert np.abs(blend - (read_image(image) + colors) / 2).max() <= 0.5

    (data / "classes.json").write_text(json.dumps(content | {"void": [0, 9]}))
    assert main([*train, "--resume", "--epochs", "2"]) == 2
    assert "are not those that the run in" in capsys.readouterr().err


def test_command_line_refuses_a_wrong_label(tmp_path, capsys):
    data = write_folder(tmp_path / "data", ["grass", "path"], [np.zeros((16, 16), np.uint8)] * 2)
    write_folder(tmp_path / "data", ["grass", "path"], [np.zeros((16, 16), np.uint8)], "val")
    save(np.full((16, 16), 2, np.uint8), data / "train" / "labels" / "1.png")
    command = ["train", "--data", str(data), "--out", str(tmp_path / "out"), "--model", "segnet-basic"]
    assert main([*command, "--size", "16x16", "--workers", "0"]) == 2
    assert "1.png has the label 2 at row 0, column 0, which classes.json does not have" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
