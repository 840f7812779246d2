"""The command ``segnet-ext``: train, predict, eval, convert, export, compare and demo.

Results go to stdout, progress to stderr. Exit codes: 0 done, 2 the command line or its input cannot be used,
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import segnet_ext
from segnet_ext.cli import compare, convert, demo, evaluate, export, predict, train
from segnet_ext.errors import InputError

_COMMANDS = (train, predict, evaluate, convert, export, compare, demo)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segnet-ext",
        description="Train, evaluate and use SegNet (semantic segmentation) with fused pooling and unpooling kernels.",
        epilog="'segnet-ext COMMAND --help' explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"segnet-ext {segnet_ext.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (argparse itself exits on --help and on usage errors)."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except InputError as error:
        print(f"segnet-ext {options.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"segnet-ext {options.command}: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of stdout has gone (a pager, head): nothing is left to say, and Python must not try at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
