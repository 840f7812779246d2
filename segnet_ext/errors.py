"""The one exception class for input that cannot be used, and the check for optional packages."""

from __future__ import annotations

import importlib.util


class InputError(Exception):
    """What the user gave (a file, a folder, a setting) cannot be used. The message is one whole sentence for them."""


# Import names of the optional packages, where they differ from the name to install.
_PACKAGES = {"PIL": "pillow", "google.protobuf": "protobuf"}


def require(user: str, *modules: str, extra: str = "train") -> None:
    """Checks that optional packages are installed, without importing them.

    Args:
        user: what needs them, as the message names it, such as ``segnet-ext train``.
        modules: import names, such as ``PIL``.
        extra: the extra of this package that has them.

    Raises:
        InputError: names what is missing and the command that installs it.
    """
    missing = [_PACKAGES.get(module, module) for module in modules if not _is_installed(module)]
    if missing:
        listed = missing[0] if len(missing) == 1 else f"{', '.join(missing[:-1])} and {missing[-1]}"
        raise InputError(f"{user} needs {listed}: pip install 'segnet_ext[{extra}]'")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing too
        return False
