"""``python -m segnet_ext``: the same as the command ``segnet-ext``, and what ``torchrun`` starts."""

import sys

from segnet_ext.cli import main
from segnet_ext.distributed import leave, under_torchrun

if __name__ == "__main__":
    status = main()
    if under_torchrun():
        leave(status)
    sys.exit(status)
