"""The paper's comparison of networks (its Tables 3 and 6): ``segnet-ext compare`` into benchmarks/results.

python benchmarks/bench_paper.py                          time, memory and model size: paper.md, paper.csv, paper.png
python benchmarks/bench_paper.py --quick                  a small image: does it run?
python benchmarks/bench_paper.py --data DIR --epochs 10   accuracy too, of networks trained for it, which takes hours

Options are those of ``segnet-ext compare --help``. pytest finds nothing to run here.
"""

import sys
from pathlib import Path

from segnet_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", "--out", str(Path(__file__).resolve().parent / "results"), *sys.argv[1:]]))
