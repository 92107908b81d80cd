"""docs/walkthrough.md runs as it stands, and no page names a command or an option that is not."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import urllib.request
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from adtally.pipelines.cli import cli
from tests.dashboards import running

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
LIVE = "## 5. Go live"
OF_BEAM = ("--runner", "--project", "--region", "--streaming")

Block = list[tuple[str, list[str]]]
"""Commands, each with the lines that are shown below it."""


def blocks(text: str) -> Block:
    """What a page tells to type, and what it shows of the answers."""
    told: Block = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                told.append((line[2:], []))
            else:
                told[-1][1].append(line)
    return told


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"[│┃]", line)]


def test_from_logs_to_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command before going live; tables that the page shows are those that come."""
    text = (DOCS / "walkthrough.md").read_text(encoding="utf-8").partition(LIVE)[0]
    shutil.copytree(DOCS / "sample", tmp_path / "docs" / "sample")
    monkeypatch.chdir(tmp_path)
    told = blocks(text)
    assert len(told) == 10
    for number, (command, shown) in enumerate(told):
        program, *arguments = shlex.split(command)
        assert program == "adtally"
        if arguments[0] == "dashboard":
            with running(*arguments[1:]) as url, urllib.request.urlopen(url) as answer:
                assert "shoes-and-more" in answer.read().decode()
            continue
        done = CliRunner().invoke(cli, arguments)
        # The first look leaves something to check, as the page says.
        assert done.exit_code == (1 if number == 0 else 0), (command, done.output)
        answer = [cells(line) for line in done.output.splitlines()]
        assert all(cells(line) in answer for line in shown), (command, done.output)
    assert "169.92" in (tmp_path / "walk" / "shoes.html").read_text()
    lines = (tmp_path / "walk" / "days.csv").read_text().splitlines()
    assert len(lines) == 1 + 6  # three shops, two campaigns each, in one day


def test_the_sample_is_what_its_script_makes(tmp_path: Path) -> None:
    shutil.copy(DOCS / "sample" / "make.py", tmp_path)
    subprocess.run(["python3", str(tmp_path / "make.py")], check=True)
    made = (tmp_path / "clicks.csv").read_bytes()
    assert made == (DOCS / "sample" / "clicks.csv").read_bytes()


def commands(page: Path) -> list[str]:
    """Lines of code that begin with adtally, with those that they go on in."""
    found = []
    for block in re.findall(r"```\w*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            typed = re.match(r"(?:\$ )?(?:\.venv/bin/)?(adtally [a-z].*)", line.strip())
            if typed and " --> " not in line:  # which is a drawing
                found.append(typed[1])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_of_a_page_exist(page: Path) -> None:
    for line in commands(page):
        command: click.Command = cli
        words = shlex.split(line, comments=True)[1:]
        words = words[: next((at for at, word in enumerate(words) if word[0] in "&|>"), None)]
        while isinstance(command, click.Group):
            name = words.pop(0)
            assert name in command.commands, line
            command = command.commands[name]
        known = {text for one in command.params for text in (*one.opts, *one.secondary_opts)}
        known |= {"--help", "-h"}
        for word in words:
            option = word.partition("=")[0]
            if not option.startswith("--") or option in known:
                continue
            beam = option in OF_BEAM or "_" in option
            assert beam and type(command).__name__ == "PassThrough", f"{line}: {option}"


def test_there_are_commands_to_look_at() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 60
