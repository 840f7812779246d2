"""The build: which torch it finds, what it says when something is missing, and that setup.py and CMake agree.

These tests run the source tree's own setup.py and CMakeLists.txt and compile next to nothing.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "build_backend")
    return importlib.import_module("segnet_ext_build")


@pytest.fixture
def toolchain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "build_backend")
    return importlib.import_module("segnet_ext_toolchain")


def run_setup(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """setup.py build_ext with `environment` added, into `tmp_path`."""
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "-b", str(tmp_path / "lib"), "-t", str(tmp_path / "temp")],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def one_sentence(result: subprocess.CompletedProcess[str]) -> str:
    """The last line of a run that has to fail without a traceback."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr + result.stdout
    return result.stderr.strip().splitlines()[-1]


# The torch to build against.


def test_installed_torch_is_used_and_none_is_asked_for(backend: ModuleType):
    assert backend.get_requires_for_build_wheel() == []
    assert backend.get_requires_for_build_editable() == []
    assert backend.get_requires_for_build_sdist() == []
    release = ".".join(torch.__version__.split(".")[:2])
    assert backend.torch_requirement(built=True) == f"torch=={release}.*"
    assert backend.torch_requirement(built=False) == "torch>=2.6"


def test_one_torch_is_settled_where_none_is_installed(backend: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend, "find_torch", lambda: False)
    monkeypatch.delenv("SEGNET_EXT_TORCH", raising=False)
    assert backend.get_requires_for_build_wheel() == [f"torch=={backend.SETTLED_TORCH}"]
    monkeypatch.setenv("SEGNET_EXT_TORCH", "2.6.0")
    assert backend.get_requires_for_build_editable() == ["torch==2.6.0"]
    assert backend.get_requires_for_build_sdist() == []


def test_too_old_torch_is_refused(backend: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend, "torch_version", lambda: "2.5.1+cu124")
    with pytest.raises(SystemExit, match=r"needs torch 2\.6 or newer and found 2\.5\.1\+cu124: upgrade it"):
        backend.find_torch()


@pytest.fixture
def build_tools(tmp_path: Path) -> Path:
    """A folder with setuptools and nothing else, as an installer's build environment has it."""
    setuptools = Path(importlib.import_module("setuptools").__file__).parent
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("setuptools", "_distutils_hack"):
        (tools / name).symlink_to(setuptools.parent / name)
    return tools


def requirements_asked_for(python: Path, shell: bool, **environment: str) -> list[str]:
    """What the backend asks for when it is run with this interpreter, by this process or by a shell."""
    code = "import json, segnet_ext_build as backend; print(json.dumps(backend.get_requires_for_build_wheel()))"
    command = [str(python), "-c", code]
    if shell:
        command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    inherited = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "SEGNET_EXT_TORCH")}
    result = subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def test_torch_is_found_behind_pips_isolation(tmp_path: Path, build_tools: Path):
    """pip hides the user's packages with a sitecustomize module on PYTHONPATH and runs the user's interpreter."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        f"sys.path[:] = [path for path in sys.path if not path.endswith('-packages')] + [{str(build_tools)!r}]\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT / "build_backend")])
    assert requirements_asked_for(Path(sys.executable), shell=True, PYTHONPATH=path, PYTHONNOUSERSITE="1") == []


@pytest.mark.parametrize("told_by", ["pyvenv.cfg", "parent process", "VIRTUAL_ENV", "nothing"])
def test_torch_is_found_from_a_build_environment(told_by: str, backend: ModuleType, tmp_path: Path, build_tools: Path):
    """`python -m build`, and pip on request, run the backend in a virtual environment without a torch."""
    if told_by == "parent process" and not Path("/proc/self/cmdline").is_file():
        pytest.skip("the command line of the parent process is read from /proc, which this system lacks")
    venv.create(tmp_path / "env", symlinks=True, with_pip=False)
    config = tmp_path / "env" / "pyvenv.cfg"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("command")]
    if told_by == "pyvenv.cfg":
        lines.append(f"command = {sys.executable} -m venv {tmp_path / 'env'}")
    config.write_text("\n".join(lines) + "\n")
    environment = {"PYTHONPATH": os.pathsep.join([str(build_tools), str(ROOT / "build_backend")])}
    if told_by == "VIRTUAL_ENV":
        environment["VIRTUAL_ENV"] = sys.prefix
    asked_for = requirements_asked_for(
        tmp_path / "env" / "bin" / "python", shell=told_by != "parent process", **environment
    )
    assert asked_for == ([f"torch=={backend.SETTLED_TORCH}"] if told_by == "nothing" else [])


# Compilers.


def test_missing_compiler_is_one_sentence(tmp_path: Path):
    message = one_sentence(run_setup(tmp_path, CXX="/nonexistent/g++"))
    assert message.startswith("segnet_ext: CXX must name a C++ compiler, and CXX=/nonexistent/g++ is not there: ")


def test_no_compiler_at_all_is_one_sentence(toolchain: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(toolchain.ToolchainError, match=r"No C\+\+ compiler was found \(tried c\+\+, g\+\+ and clang"):
        toolchain.find_compiler(17)


def test_too_old_compiler_is_one_sentence(tmp_path: Path):
    old = script(
        tmp_path / "g++",
        'case "$*" in *--version*) echo "g++ 4.4.7";; *) echo "error: unknown option -std=c++17" >&2; exit 1;; esac',
    )
    message = one_sentence(run_setup(tmp_path, CXX=str(old)))
    assert "(g++ 4.4.7) cannot compile a small C++" in message
    assert "install GCC 11 or newer or Clang 14 or newer, or set CXX to one" in message


def test_compiler_of_this_machine_is_found(toolchain: ModuleType):
    compiler = toolchain.find_compiler(toolchain.cxx_standard(Path(torch.__file__).parent))
    assert shutil.which(compiler.command[0])
    assert compiler.version


def test_standard_is_the_one_that_torch_passes(toolchain: ModuleType, tmp_path: Path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "cpp_extension.py").write_text("cflags = ['-O3', '-std=c++17']\n")
    assert toolchain.cxx_standard(tmp_path) == 17
    assert toolchain.cxx_standard(Path(torch.__file__).parent) in (17, 20, 23)


# CUDA.


@pytest.mark.skipif(torch.version.cuda is not None, reason="the installed torch has CUDA, so FORCE_CUDA may succeed")
def test_forced_cuda_without_a_cuda_torch_is_one_sentence(tmp_path: Path):
    message = one_sentence(run_setup(tmp_path, FORCE_CUDA="1"))
    assert message.startswith(f"segnet_ext: FORCE_CUDA is set, but the installed torch {torch.__version__} has no CUDA")


def test_cuda_and_cpu_both_forced_is_one_sentence(tmp_path: Path):
    message = one_sentence(run_setup(tmp_path, FORCE_CUDA="1", FORCE_CPU="1"))
    assert message == "segnet_ext: FORCE_CUDA and FORCE_CPU are both set: unset one of them."


NVCC = r"""
case "$*" in
  *--version*) echo "Cuda compilation tools, release 12.6, V12.6.20";;
  *--dryrun*) echo "#\$ TOP=$(dirname "$0")/.." >&2;;
  *--list-gpu-arch*) echo compute_75; echo compute_80; echo compute_90;;
  *) echo "fatal error: unsupported GNU version" >&2; exit 1;;
esac
"""


@pytest.fixture
def toolkit_root(tmp_path: Path) -> Path:
    """A folder with an nvcc that tells its version and compiles nothing."""
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    script(tmp_path / "cuda" / "bin" / "nvcc", NVCC)
    return tmp_path / "cuda"


def test_toolkit_behind_a_script_on_path(
    toolchain: ModuleType, toolkit_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The folder of the nvcc on PATH need not be the toolkit's."""
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "nvcc", f'exec {toolkit_root}/bin/nvcc "$@"')
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]]))
    toolkit = toolchain.find_toolkit()
    assert toolkit.root == toolkit_root.resolve()
    assert toolkit.version == "12.6"
    assert toolkit.archs == ((7, 5), (8, 0), (9, 0))


def test_unusable_toolkits_say_why(toolchain: ModuleType, toolkit_root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_HOME", str(toolkit_root))
    toolkit = toolchain.find_toolkit()
    with pytest.raises(toolchain.ToolchainError, match=r"torch is built for CUDA 13\.0 and the toolkit in .* is 12\.6"):
        toolchain.check_toolkit(toolkit, "13.0")
    with pytest.raises(toolchain.ToolchainError, match=r"cannot compile a small program \(fatal error: unsupported"):
        toolchain.check_toolkit(toolkit, "12.4")
    monkeypatch.setenv("CUDA_HOME", str(toolkit_root / "nowhere"))
    with pytest.raises(toolchain.ToolchainError, match=r"no nvcc was found at .*, where CUDA_HOME points"):
        toolchain.find_toolkit()


def test_default_architectures_are_those_that_nvcc_and_torch_know(toolchain: ModuleType):
    new = toolchain.Toolkit(Path("/cuda"), "13.0", ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0), (12, 1)))
    old = toolchain.Toolkit(Path("/cuda"), "11.8", ((5, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0)))
    built_for = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
    everything = [(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)]
    assert toolchain.default_archs(new, built_for) == everything
    assert toolchain.default_archs(new, ["sm_50", "sm_80", "sm_90"]) == everything[:4]
    assert toolchain.default_archs(old, built_for) == everything[:4]
    assert toolchain.default_archs(new, []) == everything


def test_machine_code_is_made_from_few_ptx(toolchain: ModuleType):
    flags = toolchain.gencode_flags([(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)])
    assert [flag.removeprefix("-gencode=arch=compute_") for flag in flags] == [
        "75,code=sm_75", "80,code=sm_80", "80,code=sm_86", "80,code=sm_90", "80,code=sm_100", "80,code=sm_120",
        "80,code=compute_80",
    ]  # fmt: skip
    assert toolchain.archs_text(flags) == "7.5;8.0;8.6;9.0;10.0;12.0"
    assert toolchain.archs_text(["-gencode=arch=compute_90a,code=sm_90a"]) == "9.0"


def test_later_gpus_get_no_ptx_in_which_their_kernels_are_traps(toolchain: ModuleType):
    def flags(*pairs):
        return [f"-gencode=arch=compute_{ptx},code={code}" for ptx, code in pairs]

    turing = flags(("75", "compute_75"), ("75", "sm_75"))
    assert toolchain.usable_gencode(turing) == turing[1:]
    later = flags(("80", "compute_80"), ("80", "sm_80"), ("90a", "sm_90a"))
    assert toolchain.usable_gencode(later) == later
    with pytest.raises(toolchain.ToolchainError, match=r"7\.5 or newer, got 7\.0"):
        toolchain.usable_gencode(later + flags(("70", "sm_70")))


@pytest.mark.parametrize("cuda", [False, True])
def test_each_source_is_compiled_once(tmp_path: Path, toolchain: ModuleType, cuda: bool):
    sources = toolchain.merged_sources(cuda, tmp_path)
    merged = [Path(source) for source in sources if Path(source).is_absolute()]
    others = [source for source in sources if not Path(source).is_absolute()]
    included = [
        Path(path).relative_to(ROOT).as_posix()
        for source in merged
        for path in re.findall(r'^#include "(.*)"$', source.read_text(), re.MULTILINE)
    ]
    assert sorted([*included, *others]) == toolchain.sources(cuda)
    assert [path.suffix for path in merged] == [".cpp", ".cu"] if cuda else [".cpp"]
    assert "csrc/bindings.cpp" in included
    modified = [path.stat().st_mtime_ns for path in merged]
    toolchain.merged_sources(cuda, tmp_path)
    assert [path.stat().st_mtime_ns for path in merged] == modified  # or every build would compile them again


# Packing.


def test_wheels_and_sdists_carry_the_trained_weights(tmp_path: Path):
    """What a wheel takes from build_py, and the files that an sdist is made of."""
    commands = ["build_py", "--build-lib", str(tmp_path / "lib"), "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run([sys.executable, "setup.py", "-q", *commands], cwd=ROOT, capture_output=True, check=True)
    sdist = (tmp_path / "segnet_ext.egg-info" / "SOURCES.txt").read_text().split()
    packed = [f"segnet_ext/pretrained/segnet-basic-camvid.{suffix}" for suffix in ("pt", "md")]
    for path in packed:
        assert path in sdist
        assert (tmp_path / "lib" / path).read_bytes() == (ROOT / path).read_bytes()


# Sources.


def test_setup_and_cmake_build_the_same_sources(tmp_path: Path, toolchain: ModuleType):
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if cmake is None:
        pytest.skip("cmake is not installed")
    configured = subprocess.run(
        [cmake, "-S", str(ROOT), "-B", str(tmp_path), f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert configured.returncode == 0, configured.stderr
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    cmakes = sorted(Path(command["file"]).relative_to(ROOT).as_posix() for command in commands)
    code = (
        "from setuptools import Extension, setup; import distutils.core as core;"
        "print(*core.run_setup('setup.py', stop_after='init').ext_modules[0].sources, sep='\\n')"
    )
    setups = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert cmakes == setups.stdout.split()
    assert cmakes == toolchain.sources(cuda=False)
    assert "csrc/bindings.cpp" in cmakes


def test_no_source_file_lies_outside_the_globs(toolchain: ModuleType):
    every = {path.relative_to(ROOT).as_posix() for suffix in ("cpp", "cu") for path in ROOT.glob(f"csrc/**/*.{suffix}")}
    assert every == set(toolchain.sources(cuda=True))
