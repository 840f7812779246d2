"""What the compiler made of the kernel that most of the CPU's time goes to."""

import platform
import re
import shutil
import subprocess

import pytest

from segnet_ext import _C, build_info

FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
INSTRUCTION = re.compile(r"^ +([0-9a-f]+):\t(.+)$")
JUMP = re.compile(r"j\w+ +([0-9a-f]+) ")
MULTIPLICATION = re.compile(r"(\w+)::conv3x3::multiply_rows<(\w+), (?:true|false), 6>")


def disassembly():
    """The instructions of each function of the 3x3 convolution: {name: [(address, text)]}."""
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", "-j", ".text", _C.__file__]
    functions, current = {}, []
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if header := FUNCTION.match(line):
            current = []
            if "::conv3x3::" in header[1]:
                functions[header[1]] = current
        elif instruction := INSTRUCTION.match(line):
            current.append((int(instruction[1], 16), instruction[2]))
    return functions


def innermost_loops(instructions):
    place = {address: i for i, (address, _) in enumerate(instructions)}
    ends = [
        (place[int(jump[1], 16)], i)
        for i, (_, text) in enumerate(instructions)
        if (jump := JUMP.match(text)) and place.get(int(jump[1], 16), i) < i
    ]
    for begin, end in ends:
        if not any(begin <= b and e <= end for b, e in ends if (b, e) != (begin, end)):
            yield [text for _, text in instructions[begin : end + 1]]


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump, of binutils")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64's assembly")
@pytest.mark.skipif("GCC" not in build_info()["compiler"], reason="a fact about GCC's allocation of registers")
@pytest.mark.skipif(build_info()["debug"], reason="a debug build keeps everything in memory")
def test_the_multiplication_keeps_its_operands_in_registers():
    functions = disassembly()
    if not functions:
        pytest.skip("the extension was stripped of its symbols, so that no function can be found")
    multiplications = {name: match for name in functions if (match := MULTIPLICATION.search(name))}
    expected = {(level, dtype) for level in build_info()["simd_built"] for dtype in ("float", "double")}
    assert {match.groups() for match in multiplications.values()} == expected
    for name in multiplications:
        loops = list(innermost_loops(functions[name]))
        products = [sum(text.startswith(("vfmadd", "mulp")) for text in loop) for loop in loops]
        loop = loops[products.index(max(products))]
        assert max(products) > 0 == max(products) % 12, name  # six rows, two vectors of columns
        assert not [text for text in loop if "(%rsp" in text], name
