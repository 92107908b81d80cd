"""Where Prism comes from: each place in turn, and what is said when there is none."""

from __future__ import annotations

import logging
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import (
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
)

from adtally.runners.local.service import MissingSystemPart
from adtally.runners.prism import PRISM_ENV, find_prism, prism_arguments

GO = """#!/bin/sh
printf '%s\\n' "$@" >> "{called}"
printf 'made by go' > "$GOBIN/prism"
"""
BROKEN_GO = """#!/bin/sh
printf 'go: downloading modules\\n' >&2
printf 'dial tcp: no route to host\\n' >&2
exit 1
"""


class Machine:
    """A machine on which nothing is installed yet."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.cache = folder / "cache"
        self.called = folder / "called"
        self.bin.mkdir()

    def install(self, name: str, content: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
        path = self.bin / name
        path.write_text(content)
        path.chmod(mode)
        return path

    def install_go(self) -> Path:
        return self.install("go", GO.format(called=self.called))

    def keep(self, version: str = beam.__version__) -> Path:
        """A Prism in the cache."""
        self.cache.mkdir(exist_ok=True)
        path = self.cache / f"prism-{version}"
        path.write_text("kept")
        return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(made.bin))
    monkeypatch.setenv("ADTALLY_CACHE", str(made.cache))
    monkeypatch.delenv(PRISM_ENV, raising=False)
    return made


def test_each_place_is_looked_at_in_turn(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_prism() == ""
    machine.install_go()
    built = machine.cache / f"prism-{beam.__version__}"
    assert find_prism() == str(built)
    assert built.read_text() == "made by go"
    built.write_text("kept")
    assert find_prism() == str(built)
    assert built.read_text() == "kept"
    on_path = machine.install("prism")
    assert find_prism() == str(on_path)
    named = tmp_path / "named"
    named.touch()
    monkeypatch.setenv(PRISM_ENV, str(named))
    assert find_prism() == str(named)
    given = tmp_path / "given"
    given.touch()
    assert find_prism(str(given)) == str(given)


def test_go_builds_the_version_of_beam_once(machine: Machine) -> None:
    machine.install_go()
    assert find_prism() == find_prism()
    module = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam.__version__}"
    assert machine.called.read_text().splitlines() == ["install", module]
    assert [path.name for path in machine.cache.iterdir()] == [f"prism-{beam.__version__}"]


def test_a_build_says_how_long_it_takes(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.install_go()
    with caplog.at_level(logging.INFO, "adtally"):
        find_prism()
    assert f"building Prism {beam.__version__} with Go, once" in caplog.text


def test_the_prism_of_another_beam_is_not_taken(machine: Machine) -> None:
    machine.keep("2.1.0")
    assert find_prism() == ""
    machine.install_go()
    assert find_prism() == str(machine.cache / f"prism-{beam.__version__}")


def test_a_file_that_cannot_be_run_is_passed_over_on_the_path(machine: Machine) -> None:
    machine.install("prism", mode=0o644)
    kept = machine.keep()
    assert find_prism() == str(kept)


def test_a_folder_in_the_cache_is_no_prism(machine: Machine) -> None:
    (machine.cache / f"prism-{beam.__version__}").mkdir(parents=True)
    assert find_prism() == ""


def test_without_prism_and_go_beam_is_left_to_download_it(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "adtally"):
        assert find_prism() == ""
    assert "no Prism on this machine and no Go to build it with; Beam downloads it" in caplog.text
    assert not machine.cache.exists()


def test_a_build_that_fails_is_told_with_its_reason_and_leaves_nothing(machine: Machine) -> None:
    machine.install("go", BROKEN_GO)
    with pytest.raises(MissingSystemPart) as raised:
        find_prism()
    message = str(raised.value)
    assert f"Prism {beam.__version__} could not be built" in message
    assert "no stream can run here" in message
    assert "dial tcp: no route to host" in message
    assert message.endswith("Give a binary with --prism.")
    assert list(machine.cache.iterdir()) == []
    machine.install_go()
    assert Path(find_prism()).read_text() == "made by go"


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_prism_that_is_named_and_not_there_is_an_error_though_others_are(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    machine.install("prism")
    machine.keep()
    missing = str(tmp_path / "missing")
    if by == "environment":
        monkeypatch.setenv(PRISM_ENV, missing)
    with pytest.raises(MissingSystemPart) as raised:
        find_prism(missing if by == "option" else None)
    message = str(raised.value)
    assert f"there is no Prism at {missing}" in message
    assert "no stream can run here" in message
    assert "--prism" in message
    assert PRISM_ENV in message


def test_a_folder_is_no_prism(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(MissingSystemPart, match="there is no Prism at"):
        find_prism(str(tmp_path))


def test_a_name_that_is_empty_is_none(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRISM_ENV, "")
    assert find_prism("") == ""


def test_beam_is_told_where_prism_is(machine: Machine) -> None:
    on_path = machine.install("prism")
    options = PipelineOptions(prism_arguments())
    assert options.view_as(PrismRunnerOptions).prism_location == str(on_path)
    assert options.view_as(PortableOptions).environment_type == "LOOPBACK"


def test_beam_is_told_no_place_where_there_is_none(machine: Machine) -> None:
    arguments = prism_arguments()
    assert arguments == ["--runner=PrismRunner", "--environment_type=LOOPBACK"]
    assert PipelineOptions(arguments).view_as(PrismRunnerOptions).prism_location is None
