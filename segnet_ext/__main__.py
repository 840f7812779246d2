"""``python -m segnet_ext``: the same as the command ``segnet-ext``."""

import sys

from segnet_ext.cli import main

if __name__ == "__main__":
    sys.exit(main())
