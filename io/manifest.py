"""What an output folder is: settings that all runs into it share, and a record of each run."""

from __future__ import annotations

from typing import Any

import msgspec

from adtally.io.files import atomic_write, exists, join, read_bytes

MANIFEST_NAME = "adtally.json"


class ManifestError(ValueError):
    """An output's manifest cannot be read."""


def read_manifest(output: str) -> dict[str, Any] | None:
    """The settings that the first run into ``output`` fixed, or None where there was none."""
    return _read(join(output, MANIFEST_NAME))


def write_manifest(output: str, settings: dict[str, Any]) -> None:
    """Record the settings of an output."""
    _write(join(output, MANIFEST_NAME), settings)


def read_run(output: str, job_id: str) -> dict[str, Any] | None:
    """The record of an earlier run over the same inputs and range, or None."""
    return _read(join(output, "runs", f"{job_id}.json"))


def write_run(output: str, job_id: str, record: dict[str, Any]) -> str:
    """Record what a run did; returns the address."""
    path = join(output, "runs", f"{job_id}.json")
    _write(path, record)
    return path


def _read(path: str) -> dict[str, Any] | None:
    if not exists(path):
        return None
    try:
        return msgspec.json.decode(read_bytes(path), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"{path} is not a manifest of adtally ({error}); runs into this folder could not be "
            f"kept consistent. Restore the file, or use another output."
        ) from error


def _write(path: str, content: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
