"""The locks: what ``make`` installs is what requirements say, and cannot be swapped for another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKED = {
    "requirements-build": ("requirements-build.txt",),
    "requirements": ("requirements.txt",),
    "requirements-dev": ("requirements-dev.txt", "requirements.txt"),
}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def locked(name: str) -> dict[str, list[str]]:
    """Versions of each package, which may differ by the version of Python."""
    found: dict[str, list[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text(name), re.MULTILINE):
        found.setdefault(package.lower().replace("_", "-"), []).append(version)
    return found


def pinned(*names: str) -> dict[str, str]:
    lines = [line for name in names for line in text(name).splitlines() if line[:1] not in "#-"]
    pairs = [re.sub(r"\[.*?\]", "", line).split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs), "each has one version"
    return {name.lower().replace("_", "-"): version for name, version in pairs}


@pytest.mark.parametrize("lock", sorted(LOCKED))
def test_a_lock_has_what_is_pinned(lock: str) -> None:
    """After a change of a pin: make lock."""
    found = locked(f"{lock}.lock")
    assert {name: found.get(name) for name in pinned(*LOCKED[lock])} == {
        name: [version] for name, version in pinned(*LOCKED[lock]).items()
    }


def test_tests_run_with_what_is_shipped() -> None:
    shipped, tested = locked("requirements.lock"), locked("requirements-dev.lock")
    assert {name: tested.get(name) for name in shipped} == shipped


@pytest.mark.parametrize("lock", sorted(LOCKED))
def test_each_locked_package_has_a_hash_and_no_place(lock: str) -> None:
    """Where packages come from is the machine's business; which bytes they are is not."""
    content = text(f"{lock}.lock")
    entries = re.split(r"\n(?=[\w.-]+==)", content)
    assert len(entries) > 2
    assert not [entry for entry in entries if "--hash=sha256:" not in entry]
    assert "://" not in content
    assert "index-url" not in content
    assert not re.search(r"^(-|\w\S* @)", content, re.MULTILINE)


def test_make_installs_by_hash() -> None:
    lines = [line for line in text("Makefile").splitlines() if "$(INSTALL)" in line]
    others = [line for line in lines if "--require-hashes" not in line]
    assert [line.split("$(INSTALL) ")[1] for line in others] == [
        "--no-deps --no-build-isolation -e ."
    ]
    assert len(lines) == 3
