"""docs/analysis.md: its commands and programs run as they stand, and count what the views count."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from click.testing import CliRunner

from adtally.pipelines.cli import cli
from tests.pipelines.test_oracle import made_up, run, views

PAGE = (Path(__file__).parents[2] / "docs" / "analysis.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^adtally (.*)$", PAGE, re.MULTILINE)
SPARK, PANDAS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
MARCH = 1_772_323_200_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("analysis")
    logs, _ = made_up(path, 21, events=3_000, hours=7, start_ms=MARCH, advertisers=3)
    run("backfill", "--input", str(logs), "--output", str(path / "out"))
    return path


def printed(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def counted(folder: Path, where: str) -> str:
    query = f"SELECT count(*) FROM events WHERE {where}"
    [[count]] = views(folder / "out").execute(query).fetchall()
    assert count > 10
    return str(count)


def test_the_commands_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert len(COMMANDS) == 6
    for command in COMMANDS:
        done = CliRunner().invoke(cli, shlex.split(command))
        assert done.exit_code == 0, done.output
    assert len((folder / "month.csv").read_text().splitlines()) > 3
    hour = "advertiser_id = 'adv-00001' AND hour(occurred_at) = 5"
    assert str(len(pandas.read_parquet(folder / "hour.parquet"))) == counted(folder, hour)


def test_pandas_counts_what_the_view_counts(folder: Path) -> None:
    assert printed(PANDAS, folder) == counted(folder, "advertiser_id = 'adv-00001'")


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
def test_spark_counts_what_the_view_counts(folder: Path) -> None:
    assert printed(SPARK, folder) == counted(folder, "true")
