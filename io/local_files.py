"""What lies in a folder of this machine beside regular files: it must neither hang nor vanish."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

_KINDS: Final = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class FolderUnreadable(OSError):
    """A folder below an input cannot be listed."""


def special(path: str) -> str:
    """What kind of file a local path is that is read without an end, or not twice; else empty."""
    if "://" in path:
        return ""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return ""
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "")


def oddities(folder: str) -> dict[str, str]:
    """Paths below a local folder that a listing leaves out, and why.

    Links to folders are not followed, as they may lead in circles; links to files are.

    Raises:
        FolderUnreadable: names the folder.
    """
    if "://" in folder:
        return {}
    odd: dict[str, str] = {}
    for base, folders, files in os.walk(folder, onerror=_refuse):
        for name in folders:
            path = os.path.join(base, name)  # noqa: PTH118 - as the listing spells it
            if Path(path).is_symlink():
                odd[path] = "a link to a folder"
        for name in files:
            path = os.path.join(base, name)  # noqa: PTH118
            if not Path(path).exists():
                odd[path] = "a link to nothing"
    return odd


def _refuse(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):  # the input itself, or a folder that went meanwhile
        return
    raise FolderUnreadable(
        f"input folder {error.filename!r} cannot be listed ({error.strerror}): its logs would be "
        f"missing without a word. Grant access to it, or name the other folders."
    ) from error
