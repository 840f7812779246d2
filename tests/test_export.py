"""segnet-ext export: ONNX by ONNX Runtime and torch.export's programs, at several sizes, against the model."""

import importlib.util
import json

import pytest
import torch
from model_cases import MODELS, randomise

import segnet_ext
from segnet_ext.checkpoint import MODEL_TYPES, Checkpoint, read_checkpoint, write_checkpoint
from segnet_ext.cli import main
from segnet_ext.data import CAMVID
from segnet_ext.export import UNPOOLINGS, exported_program, onnx_model
from segnet_ext.input_form import InputForm

needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))), reason="onnx or onnxruntime is not installed"
)
VARIANTS = [name for name, kind in MODEL_TYPES.items() if kind.factory.__module__ == "segnet_ext.models.variants"]
SIZES = [(1, 64, 96), (2, 37, 51), (1, 33, 34)]


def filled(name: str, **arguments):
    model = MODELS[name][0](num_classes=4, **arguments).eval()
    randomise(model, seed=0)
    return model


def run_onnx(content: bytes, x: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])


def assert_agree(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Almost everywhere: a near tie of a pool may go either way in float32, and then moves a few results."""
    assert actual.shape == expected.shape
    error = (actual - expected).abs() / expected.abs().max()
    assert float(error.median()) < 1e-5
    assert float((error > 1e-3).float().mean()) < 0.02


@needs_onnx
@pytest.mark.parametrize(
    "name, arguments, unpool",
    # SegNet by MaxUnpool is a rival in the benchmarks and tested there.
    [("SegNet", {}, "select"), *(("SegNetBasic", {"width": 16}, unpool) for unpool in UNPOOLINGS)],
    ids=["SegNet", *(f"Basic-{unpool}" for unpool in UNPOOLINGS)],
)
def test_onnx_agrees_at_every_size(name, arguments, unpool):
    model = filled(name, **arguments)
    content = onnx_model(model, unpool).SerializeToString()
    for n, *size in SIZES:
        x = torch.rand(n, 3, *size)
        with torch.no_grad():
            assert_agree(run_onnx(content, x), model(x))


@needs_onnx
@pytest.mark.parametrize("unpool", UNPOOLINGS)
def test_onnx_takes_the_first_of_equal_pixels(unpool):
    # Blocks of equal pixels make every window of the first pool a tie, and rectified zeros most of the others.
    model = filled("SegNetBasic", width=8, lrn=False)
    for stage in model.encoder.children():
        torch.nn.init.constant_(stage.bn.bias, -0.5)
    torch.nn.init.zeros_(model.encoder.stage1.conv.weight)
    model.encoder.stage1.conv.weight.data[:, :, 3, 3] = torch.randn(8, 3)
    x = torch.randn(1, 3, 12, 20).repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :23, :39]
    with torch.no_grad():
        expected = model(x)
    actual = run_onnx(onnx_model(model, unpool).SerializeToString(), x)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@needs_onnx
def test_select_has_standard_operators_alone():
    graph = onnx_model(filled("SegNetBasic", width=8), "select").graph
    operators = {node.op_type for node in graph.node}
    assert not operators & {"MaxPool", "MaxUnpool"} and len(graph.input) == len(graph.output) == 1
    assert [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == ["N", 3, "H", "W"]


@needs_onnx
def test_onnx_has_the_input_form_and_no_dropout():
    form = InputForm((2, 1, 0), (2.0, 3.0, 4.0), (0.5, -0.25, 1.0))
    model = filled("SegNetBasic", dropout=0.5, width=16)
    model.input_form = form.module()
    x = torch.rand(1, 3, 40, 47)
    with torch.no_grad():
        assert_agree(run_onnx(onnx_model(model).SerializeToString(), x), model(x))


def assert_program_agrees(model, path) -> None:
    """Also after it went through a file, and at several sizes."""
    path.write_bytes(exported_program(model))
    loaded = torch.export.load(path).module()
    for n, *size in SIZES:
        x = torch.rand(n, 3, *size)
        with torch.no_grad():
            assert_agree(loaded(x), model(x))


@pytest.mark.parametrize("name, arguments", [("SegNet", {}), ("SegNetBasic", {"width": 16})], ids=["SegNet", "Basic"])
def test_programs_agree_at_every_size(name, arguments, tmp_path):
    assert_program_agrees(filled(name, **arguments), tmp_path / "a.pt2")


def variant(name: str):
    """A model of the paper's Table 1."""
    model = MODEL_TYPES[name].factory(4, **MODEL_TYPES[name].arguments, width=8).eval()
    randomise(model, seed=0)
    return model


@needs_onnx
@pytest.mark.parametrize("name", VARIANTS)
def test_onnx_of_variants_agrees(name):
    model = variant(name)
    for unpool in UNPOOLINGS:
        written = onnx_model(model, unpool)
        for n, *size in SIZES:
            x = torch.rand(n, 3, *size)
            with torch.no_grad():
                assert_agree(run_onnx(written.SerializeToString(), x), model(x))
    assert ("MaxUnpool" in {node.op_type for node in written.graph.node}) == ("segnet-basic" in name)


@pytest.mark.parametrize("name", ["bilinear-interpolation", "fcn-basic", "segnet-basic-single-channel-decoder"])
def test_programs_of_variants_agree(name, tmp_path):
    assert_program_agrees(variant(name), tmp_path / "a.pt2")


def test_refusals():
    with pytest.raises(TypeError, match=r"^onnx_model: model must be one of SegNet, SegNetBasic, .*, got Linear$"):
        onnx_model(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"^exported_program: model must be one of SegNet, .*, got Linear$"):
        exported_program(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"^onnx_model: unpool must be one of select, max-unpool, got 'x'$"):
        onnx_model(segnet_ext.SegNetBasic(2, width=4), "x")


# ---- the command line


def checkpoint(path, model: str = "segnet-basic"):
    write_checkpoint(path, Checkpoint(model, CAMVID, (24, 32), MODEL_TYPES[model].build(11).state_dict()))
    return path


@needs_onnx
def test_command_writes_onnx(tmp_path, capsys):
    import onnx

    weights, out = checkpoint(tmp_path / "a.pt", "fcn-basic"), tmp_path / "new" / "a.onnx"
    assert main(["export", "--weights", str(weights), "--format", "onnx", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{weights}: fcn-basic, 11 classes, as {out}"
    assert printed[1].startswith("ONNX Runtime ") and "agrees on noise" in printed[1]
    properties = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert json.loads(properties["class_names"]) == list(CAMVID.names)


def test_command_writes_a_program(tmp_path, capsys):
    weights, out = checkpoint(tmp_path / "a.pt", "bayesian-segnet-basic"), tmp_path / "a.pt2"
    assert main(["export", "--weights", str(weights), "--format", "torch-export", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{weights}: bayesian-segnet-basic, 11 classes, as {out}\n"
    x = torch.rand(1, 3, 24, 32)
    with torch.no_grad():
        assert_agree(torch.export.load(out).module()(x), read_checkpoint(weights).build_model()(x))


def test_command_refuses(tmp_path, capsys, monkeypatch):
    def error_of(*arguments) -> str:
        assert main(["export", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("segnet-ext export: error: ") and err.count("\n") == 1
        return err.removeprefix("segnet-ext export: error: ").rstrip("\n")

    weights, onnx = checkpoint(tmp_path / "a.pt"), ("--format", "onnx", "--out", tmp_path / "a.onnx")
    assert "must end in .pt2 for" in error_of("--weights", weights, "--format", "torch-export", *onnx[2:])
    assert "does not exist" in error_of("--weights", tmp_path / "no.pt", "--format", "torch-export", "--out", "a.pt2")
    message = error_of(
        "--weights", weights, "--format", "torch-export", "--out", tmp_path / "a.pt2", "--unpool", "select"
    )
    assert message == "--unpool is for --format onnx"
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else real(name, *rest))
    message = error_of("--weights", weights, *onnx)
    assert message == "segnet-ext export --format onnx needs onnx: pip install 'segnet_ext[export]'"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt"]
