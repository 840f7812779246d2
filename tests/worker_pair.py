"""Two processes that work together, for tests of torch.distributed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def run_pair(worker: Path, folder: Path, timeout: float) -> list[Any]:
    """What ``worker RANK MEETING FILE`` writes to its file, in two processes, of ranks 0 and 1; both must succeed."""
    files = [folder / f"rank{rank}.pt" for rank in (0, 1)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), str(folder / "meeting"), str(file)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, file in enumerate(files)
    ]
    try:
        for process in processes:
            _, stderr = process.communicate(timeout=timeout)
            assert process.returncode == 0, stderr
    finally:
        for process in processes:
            process.kill()
    return [torch.load(file, weights_only=True) for file in files]
