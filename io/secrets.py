"""Secrets in files: read where they are used, and never told."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

from adtally.io.endpoints import warn_once
from adtally.io.files import read_bytes

_LOG = logging.getLogger("adtally.secrets")


class SecretError(ValueError):
    """A secret cannot be read from its file; nothing of what is in it is in the message."""


def read_secret(path: str) -> str:
    """The text in a file of this machine, or at ``gs://`` or ``s3://``; blanks around it go.

    Warns, once a process, where any user of the machine may read the file.

    Raises:
        SecretError: it cannot be read, is no text, or is empty.
    """
    try:
        secret = read_bytes(path).decode().strip()
    except (OSError, ValueError) as error:  # ValueError: no text, or a scheme Beam does not know
        kind = type(error).__name__  # what a decoder says may quote what it read
        reason = (isinstance(error, OSError) and error.strerror) or kind
        raise SecretError(
            f"secret file {path} cannot be read: {reason}. Every worker reads it, so it must be "
            f"there on each."
        ) from None
    if not secret:
        raise SecretError(f"secret file {path} is empty; write the secret into it.")
    warn_of_readers(path)
    return secret


def warn_of_readers(path: str) -> None:
    """Tell of a file that any user of the machine may read."""
    file = Path(path)
    if "://" not in path and file.is_file() and file.stat().st_mode & stat.S_IROTH:
        warn_once(
            _LOG, f"secret file {path} can be read by every user of this machine: chmod 600 {path}"
        )
