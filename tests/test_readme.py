"""README.md is true: its Python runs as printed, and the commands, options, files and variables it names are there."""

import re
import runpy
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from segnet_ext import ops
from segnet_ext.cli import build_parser
from segnet_ext.data import DATASETS
from segnet_ext.data.folder import read_classes

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
# Each simple command of the bash blocks, without comments.
COMMANDS = [
    command.strip()
    for language, text in BLOCKS
    if language == "bash"
    for line in text.splitlines()
    for command in line.partition("  #")[0].split("&&")
]


def commands_of(program: str) -> list[str]:
    return [command for command in COMMANDS if command.split()[0] == program]


def table_after(text: str) -> list[list[str]]:
    """The rows of the first table that follows ``text``, without its header."""
    lines = README.partition(text)[2].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_runs_as_printed(number, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON[number], f"README.md, Python block {number + 1}", "exec"), {"__name__": "__main__"})
    promised = re.findall(r"^print\(.*\)  # (.*)$", PYTHON[number], re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == promised


def test_there_is_python():
    assert len(PYTHON) >= 3


@pytest.mark.parametrize("name", ["demo", "tests"])
def test_the_two_commands_are_marked(name):
    block = re.search(rf"<!-- command: {name} -->\n```bash\n(.*)\n```\n", README)
    assert block, f"README.md has no one-line bash block behind <!-- command: {name} -->"


def test_ci_runs_the_test_command():
    ci = ROOT / ".ci" / "run"
    if not ci.is_file():
        pytest.skip("no .ci/run beside the tests")
    command = re.search(r"<!-- command: tests -->\n```bash\n(.*)\n```\n", README)[1]
    lines = ci.read_text(encoding="utf-8").splitlines()
    assert all(part.strip() in lines for part in command.split("&&"))


@pytest.mark.parametrize("command", commands_of("segnet-ext"))
def test_command_lines_are_understood(command):
    options = build_parser().parse_args(shlex.split(command)[1:])
    assert callable(options.run)


def test_the_command_is_installed():
    (script,) = entry_points(group="console_scripts", name="segnet-ext")
    assert script.value == "segnet_ext.cli:main"
    described = {command.split()[1] for command in commands_of("segnet-ext")}
    listed = build_parser().format_help()
    assert described == {"train", "eval", "predict", "convert", "export", "compare", "demo"}
    assert all(re.search(rf"^ +{name} ", listed, re.MULTILINE) for name in described)


def test_the_classes_json_is_understood(tmp_path):
    (content,) = (text for language, text in BLOCKS if language == "json")
    (tmp_path / "classes.json").write_text(content)
    classes, labels = read_classes(tmp_path / "classes.json")
    assert classes.names == ("road", "car") and labels.classes == {7: 0, 26: 1, 0: 2, 255: 2}


def test_every_data_set_is_in_the_table():
    assert [row[0].strip("`") for row in table_after("### Data sets")] == list(DATASETS)


def test_extras_exist():
    extras = set(re.findall(r'pip install "\.\[(\w+)\]"', README))
    assert extras >= {"train", "test"}
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert extras <= set(re.findall(r"^(\w+) = ", section, re.MULTILINE))


def test_pytest_options_exist():
    defined = (ROOT / "benchmarks" / "conftest.py").read_text(encoding="utf-8")
    for command in commands_of("pytest"):
        folder, *options = shlex.split(command)[1:]
        assert (ROOT / folder).is_dir()
        assert all(option == "--benchmark-only" or f'"{option}"' in defined for option in options)


def test_cmake_options_exist():
    used = set(re.findall(r"-D(SEGNET_EXT_\w+)=", README))
    assert used
    defined = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert used <= set(re.findall(r"^option\((\w+) ", defined, re.MULTILINE))


def test_every_op_is_in_the_table():
    calls = [re.fullmatch(r"`(\w+)\((.*)\)`", row[0]) for row in table_after("## Operations")]
    assert {call[1] for call in calls} == set(ops.__all__)
    for call in calls:
        function = getattr(ops, call[1])
        assert call[2].split(", ") == list(function.__code__.co_varnames[: function.__code__.co_argcount])


def test_environment_variables_are_read():
    names = [name for row in table_after("### Environment variables") for name in re.findall(r"`([A-Z_]+)`", row[1])]
    files = [ROOT / "setup.py", *(ROOT / "build_backend").glob("*.py"), *(ROOT / "csrc").glob("*/*.cpp")]
    files += (ROOT / "csrc" / "host_cuda").glob("*.cc")
    files += [ROOT / "tests" / "conftest.py", ROOT / "tests" / "test_data.py"]
    files += [Path(torch.__file__).parent / "utils" / "cpp_extension.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    by_libraries = {"OMP_NUM_THREADS"}
    assert [name for name in names if name not in text] == sorted(by_libraries)
    ours = set(re.findall(r"[\"'](SEGNET_EXT_(?!CXX|PYTHON|WITH|TORCH_V|CUDA_ARCHS)[A-Z_]+)[\"']", text))
    assert ours <= set(names)


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)#:]+)\)|(?:src|srcset)=\"([^\"]+)\"", README)
    paths = {path for link in links for path in link if path}
    assert {"docs/fusion.svg", "docs/fusion-dark.svg", "LICENSE"} <= paths
    assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_figure_is_what_its_script_draws():
    script = runpy.run_path(str(ROOT / "docs" / "make_fusion_figure.py"))
    for name, theme in script["FILES"].items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == script["draw"](theme)
