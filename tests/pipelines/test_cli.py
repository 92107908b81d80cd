"""The command line: what it answers, its exit codes, and runs that are refused or cut short."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner, Result

from adtally.io.synthetic import GenerateConfig
from adtally.io.synthetic_logs import generate
from adtally.pipelines.cli import cli

GOOD = {
    "event_id": "e1",
    "event_type": "click",
    "occurred_at": "2026-03-01T10:00:00Z",
    "advertiser_id": "adv-1",
}


def adtally(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner(env=env).invoke(cli, list(arguments), prog_name="adtally")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Two good records and one bad one."""
    folder = tmp_path / "logs"
    folder.mkdir()
    lines = [json.dumps(GOOD), json.dumps({**GOOD, "event_id": "e2"}), "not json"]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return folder


def query(output: Path, sql: str) -> list[tuple[object, ...]]:
    connection = duckdb.connect()
    connection.execute((output / "views.sql").read_text())
    return connection.execute(sql).fetchall()


@pytest.mark.parametrize("command", ["backfill", "replay", "generate", "elasticsearch"])
def test_help_explains(command: str) -> None:
    result = adtally(command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.output
    assert len(result.output) > 150


def test_version() -> None:
    assert adtally("--version").output.strip().startswith("adtally")


def test_module_and_command_are_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "adtally.pipelines", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "0.1.0" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--input"),
        (("--outptu", "x"), "did you mean --output"),
        (("--window", "7m"), "does not divide a day"),
        (("--window", "soon"), "write it as 90s"),
        (("--rollup", "90s"), "larger multiples"),
        (("--dimensions", "colour"), "choose from campaign_id"),
        (("--from", "2026-03-01T10:00:30Z"), "2026-03-01T10:01:00Z"),
        (("--from", "2026-03-02", "--to", "2026-03-01"), "is not before"),
        (("--from", "yesterday"), "write it as 2026-03-01"),
        (("--mapping", "none.toml"), "none.toml"),
        (("--rules", "none.toml"), "none.toml"),
        (("--output", "out[1]"), "take for a pattern"),
        (("--elasticsearch", "localhost"), "https://HOST:9200"),
        (("--elasticsearch", "http://a:b@h"), "user or password"),
        (("--config", "none.toml"), "cannot be read"),
    ],
)
def test_wrong_usage_is_refused_with_the_remedy(
    logs: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    base = ("--input", str(logs), "--output", str(tmp_path / "out"))
    result = adtally("backfill", *(base if arguments else base[2:]), *arguments)
    assert result.exit_code == 2, result.output
    assert words.lower() in result.output.lower()
    assert not (tmp_path / "out" / "events").exists()


def test_no_input(tmp_path: Path) -> None:
    result = adtally("backfill", "--input", str(tmp_path / "nothing"), "--output", str(tmp_path))
    assert result.exit_code == 2
    assert "matches no log file" in result.output


def test_flags_win_over_environment_and_file(logs: Path, tmp_path: Path) -> None:
    config = tmp_path / "adtally.toml"
    config.write_text(f"output = '{tmp_path / 'file'}'\nwindow = '1h'\nrollup = ['1d']\n")
    run = ("backfill", "--input", str(logs), "--config", str(config))
    assert adtally(*run).exit_code == 0
    assert adtally(*run, env={"ADTALLY_OUTPUT": str(tmp_path / "env")}).exit_code == 0
    assert adtally(*run, "--output", str(tmp_path / "flag")).exit_code == 0
    for name in ("file", "env", "flag"):
        sizes = query(tmp_path / name, "SELECT DISTINCT window_seconds FROM summaries ORDER BY 1")
        assert sizes == [(3600,), (86_400,)]


def test_a_config_with_an_unknown_key(logs: Path, tmp_path: Path) -> None:
    config = tmp_path / "adtally.toml"
    config.write_text("windov = '1h'\n")
    result = adtally("backfill", "--input", str(logs), "--output", "x", "--config", str(config))
    assert result.exit_code == 2
    assert "Did you mean 'window'" in result.output


def test_too_many_dead_letters_fail_after_everything_is_written(logs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = adtally(
        *("backfill", "--input", str(logs), "--output", str(output)),
        *("--max-dead-letter-ratio", "0.1"),
    )
    assert result.exit_code == 1
    assert "33.333%" in result.output
    assert query(output, "SELECT sum(clicks) FROM summaries") == [(2,)]
    assert query(output, "SELECT error_type FROM dead_letters") == [("invalid_json",)]


def test_several_inputs_as_a_shell_spreads_them(logs: Path, tmp_path: Path) -> None:
    (logs / "b.jsonl").write_text(json.dumps({**GOOD, "event_id": "e3"}))
    output = tmp_path / "out"
    files = [str(path) for path in sorted(logs.iterdir())]
    assert adtally("backfill", "--input", *files, "--output", str(output)).exit_code == 0
    assert query(output, "SELECT sum(clicks) FROM summaries") == [(3,)]


def test_other_settings_into_the_same_output_are_refused(logs: Path, tmp_path: Path) -> None:
    base = ("backfill", "--input", str(logs), "--output", str(tmp_path / "out"))
    assert adtally(*base).exit_code == 0
    result = adtally(*base, "--dimensions", "country")
    assert result.exit_code == 2
    assert "would not add up" in result.output
    rules = tmp_path / "rules.toml"
    rules.write_text("rules.givt_click_rate_ip.threshold = 2")
    result = adtally(*base, "--rules", str(rules))
    assert result.exit_code == 2
    assert "re-tally" in result.output


def test_what_was_written_is_not_read_as_a_log(logs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert adtally("backfill", "--input", str(logs), "--output", str(output)).exit_code == 0
    result = adtally(
        *("backfill", "--input", str(output / "dead-letters"), "--output", str(output))
    )
    assert result.exit_code == 2
    assert "adtally replay" in result.output


def test_a_failed_run_says_so_and_exits_with_1(logs: Path, tmp_path: Path) -> None:
    result = adtally(
        *("backfill", "--input", str(logs), "--output", str(tmp_path / "out")),
        *("--elasticsearch", "http://127.0.0.1:9", "--elasticsearch-retry-seconds", "0.1"),
    )
    assert result.exit_code == 1
    assert "Nothing is lost" in result.output
    assert "Traceback" not in result.output


def test_generate_is_reproducible_in_every_format(tmp_path: Path) -> None:
    for number, extra in enumerate([(), ("--time-format", "epoch_s"), ("--compression", "none")]):
        for copy in "ab":
            folder = tmp_path / f"{number}{copy}"
            arguments = ("--events", "3000", "--seed", "5", "--output", str(folder))
            assert adtally("generate", *arguments, *extra).exit_code == 0
        assert tree(tmp_path / f"{number}a") == tree(tmp_path / f"{number}b")
    mapping = tmp_path / "1a" / "mapping.toml"
    truth = json.loads((tmp_path / "1a" / "truth" / "truth.json").read_text())
    output = tmp_path / "out"
    logs = str(tmp_path / "1a" / "logs")
    run = ("backfill", "--input", logs, "--output", str(output), "--mapping", str(mapping))
    assert adtally(*run).exit_code == 0
    counted = query(output, "SELECT sum(impressions + clicks + conversions) FROM summaries")
    assert counted == [(truth["counted"],)]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_killed_in_the_middle_and_run_again(tmp_path: Path) -> None:
    made = tmp_path / "made"
    truth = generate(GenerateConfig(60_000, 3, str(made), hours=12))
    whole, output = tmp_path / "whole", tmp_path / "out"
    run = ("backfill", "--input", str(made / "logs"), "--block-size", "1", "--output")
    assert adtally(*run, str(whole)).exit_code == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "adtally.pipelines", *run, str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(output.rglob("*.tmp")) and not list(output.rglob("*.parquet")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "runs").exists()
    for path in output.rglob("*.parquet"):
        duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall()  # whole, or not there
    for path in output.rglob("*.tmp"):  # as old as leftovers must be before a run removes them
        os.utime(path, (0, 0))
    assert adtally(*run, str(output)).exit_code == 0
    assert not list(output.rglob("*.tmp"))
    for kind in ("events", "summaries", "flags", "late"):
        assert tree(output / kind) == tree(whole / kind)
    counted = query(output, "SELECT sum(impressions + clicks + conversions) FROM summaries")
    assert counted == [(truth["counted"],)]


def test_many_small_files_are_packed(tmp_path: Path) -> None:
    made = tmp_path / "made"
    generate(GenerateConfig(5_000, 4, str(made), hours=6, files_per_hour=60))
    output = tmp_path / "out"
    assert (
        adtally("backfill", "--input", str(made / "logs"), "--output", str(output)).exit_code == 0
    )
    files = len(list((made / "logs").rglob("*.gz")))
    assert files > 300
    assert len(list((output / "events").rglob("*.parquet"))) < 20


@pytest.mark.parametrize(
    ("sign", "number", "word"),
    [
        ("adtally.json", signal.SIGINT, "interrupted"),
        ("events/**/*.parquet", signal.SIGTERM, "ended by SIGTERM"),
        ("events/**/*.parquet", signal.SIGINT, "interrupted"),
    ],
)
def test_interrupted_says_how_to_go_on(
    tmp_path: Path, sign: str, number: signal.Signals, word: str
) -> None:
    made = tmp_path / "made"
    CliRunner().invoke(
        cli, ["generate", "--events", "100000", "--seed", "1", "--output", str(made)]
    )
    output = tmp_path / "out"
    command = ["backfill", "--input", str(made / "logs"), "--output", str(output)]
    with ended(
        subprocess.Popen(
            [sys.executable, "-m", "adtally.pipelines", *command], stderr=subprocess.PIPE, text=True
        )
    ) as process:
        while not list(output.glob(sign)):  # it has begun; it writes in Beam's worker
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said
    assert f"{word}; the same command again completes it" in " ".join(said.split())
    assert CliRunner().invoke(cli, command).exit_code == 0


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive its test."""
    with process:
        try:
            yield process
        finally:
            process.kill()
