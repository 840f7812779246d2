"""What a user sees at import: the public names, build_info, and one clear sentence where the extension is unusable."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import segnet_ext
from segnet_ext import _extension

PACKAGE = Path(segnet_ext.__file__).parent


# An editable installation finds the compiled module wherever segnet_ext itself comes from.
WITHOUT_EDITABLE = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in repr(f)]"


def import_from(path: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """`import segnet_ext` in a new interpreter that has `path` first on its path."""
    return subprocess.run(
        [sys.executable, "-c", f"{WITHOUT_EDITABLE}\n{before}\nimport segnet_ext"],
        cwd=path,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copied_package(tmp_path: Path) -> Path:
    """A copy of the package without its compiled module, in an otherwise empty folder."""
    ignored = shutil.ignore_patterns("_C.*.so", "__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / "segnet_ext", ignore=ignored))


def test_public_names():
    for name in segnet_ext.__all__:
        assert hasattr(segnet_ext, name), name
    assert segnet_ext.__version__ == importlib.metadata.version("segnet_ext")


def test_needs_no_optional_package():
    """`import segnet_ext`, and a trained model of the package's own, cost no more than torch and numpy."""
    absent = "for name in ('PIL', 'tqdm', 'torchmetrics', 'safetensors', 'pytest'): sys.modules[name] = None"
    load = "import segnet_ext; segnet_ext.SegNetBasic.from_pretrained('camvid')"
    result = import_from(PACKAGE.parent, before=f"{absent}\n{load}")
    assert result.returncode == 0, result.stderr


def test_build_info():
    info = segnet_ext.build_info()
    assert set(info) >= {
        "version", "compiler", "flags", "debug", "cxx11_abi", "python", "torch", "cuda", "cuda_archs",
        "simd_built", "simd_supported", "simd",
    }  # fmt: skip
    assert info["torch"] == torch.__version__
    assert info["cxx11_abi"] == torch.compiled_with_cxx11_abi()
    assert info["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert (info["cuda"] is None) == (info["cuda_archs"] is None)
    assert "portable" in info["simd_built"]
    assert info["simd"] in info["simd_supported"]
    assert set(info["simd_supported"]) <= set(info["simd_built"])
    for unwanted in ("-march=native", "-ffast-math", "-Ofast"):
        assert unwanted not in info["flags"]


def test_the_installed_metadata_requires_the_torch_built_against():
    release = ".".join(segnet_ext.build_info()["torch"].split(".")[:2])
    assert f"torch=={release}.*" in (importlib.metadata.requires("segnet_ext") or [])


def test_source_tree_without_a_build_says_so(copied_package: Path):
    (copied_package.parent / "setup.py").touch()
    result = import_from(copied_package.parent)
    assert result.returncode == 1
    assert "ImportError: segnet_ext is not built in its source folder" in result.stderr
    assert "`pip install -e .`" in result.stderr


def test_installation_without_the_module_says_so(copied_package: Path):
    result = import_from(copied_package.parent)
    assert result.returncode == 1
    assert "ImportError: segnet_ext is installed without its compiled module _C" in result.stderr


def test_module_that_does_not_load_says_so(copied_package: Path):
    """As an undefined symbol does, whichever torch the metadata names."""
    (copied_package / "_C.py").write_text("raise ImportError('undefined symbol: _ZN2at4_ops')\n")
    result = import_from(copied_package.parent)
    assert result.returncode == 1
    message = result.stderr.strip().splitlines()[-1]
    reason = "ImportError: segnet_ext's compiled module does not load (undefined symbol: _ZN2at4_ops): "
    assert message.startswith(reason + "rebuild it with `pip install")


def test_other_torch_than_built_against_says_so(copied_package: Path):
    (copied_package / "_C.py").write_text("def build_info(): return {'torch': '1.99.1+cpu'}\n")
    result = import_from(copied_package.parent)
    assert result.returncode == 1
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith(
        "ImportError: segnet_ext was built against torch 1.99.1+cpu and cannot run with the installed torch "
        f"{torch.__version__}: rebuild it with `pip install"
    )


def test_undefined_symbol_under_another_torch_names_both(monkeypatch: pytest.MonkeyPatch):
    def undefined_symbol(name: str):
        raise ImportError("undefined symbol")

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch==1.99.*", "numpy"])
    monkeypatch.setattr(_extension.importlib, "import_module", undefined_symbol)
    with pytest.raises(ImportError, match=r"built against torch 1\.99 and cannot run with the installed torch"):
        _extension.load()
