"""``adtally inspect`` and ``adtally convert``: foreign logs, from a look at them to right sums."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result

from adtally.io.foreign import SAMPLE_BYTES
from adtally.pipelines.cli import cli
from adtally.transforms.mapping import load_mapping

ROWS = 400


def adtally(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def inspected(*arguments: str, code: int = 0) -> str:
    result = adtally("inspect", *arguments)
    assert result.exit_code == code, result.output
    return result.output


def write_json(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def minute(number: int) -> tuple[int, int]:
    """Hour and minute of a record of a made-up day."""
    return 10 + number % 5, number % 60


def nested(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Epoch milliseconds, objects inside objects, types of its own, names in camel case."""
    records = (
        {
            "eventId": f"e{n}",
            "ts": 1_772_323_200_000 + n * 1_000,
            "kind": ("IMP", "CLK", "CONV")[n % 3],
            "account": {"id": n % 7, "name": "x"},
            "meta": {"campaign": {"id": f"c{n % 4}"}, "geo": {"country": "DE"}},
            "price": round(n / 100, 2),
            "currencyCode": "EUR",
        }
        for n in range(ROWS)
    )
    return write_json(folder / "nested.jsonl", records), ()


def packed(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Epoch seconds as text, gzip, money in micros."""
    lines = "".join(
        json.dumps({"uuid": str(n), "timestamp": str(1_772_323_200 + n), "event": "click",
                    "advertiser": "a", "cost_micros": n, "currency": "USD"}) + "\n"
        for n in range(ROWS)
    )  # fmt: skip
    path = folder / "packed.json.gz"
    path.write_bytes(gzip.compress(lines.encode()))
    return path, ()


def commas(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """CSV with a header, quotes, and times with the offset of their zone."""
    path = folder / "commas.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Request ID", "Event Time", "Type", "Advertiser ID", "Campaign", "Cost"])
        for n in range(ROWS):
            hour, at = minute(n)
            when = f"2026-03-01T{hour}:{at:02}:00+01:00"
            kind = ("impression", "click")[n % 2]
            writer.writerow([n, when, kind, f"adv,{n % 3}", f'the "{n % 2}"', f"{n / 8:.3f}"])
    return path, ("--currency", "USD")


def semicolons(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """As a German spreadsheet writes it."""
    path = folder / "semicolons_clicks.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["id", "datetime", "client", "campaign", "spend", "currency"])
        for n in range(ROWS):
            hour, at = minute(n)
            amount = f"1.{n:03},{n % 100:02}"
            writer.writerow([n, f"25.02.2026 {hour}:{at:02}:07", f"k{n % 3}", n % 2, amount, "EUR"])
    return path, ("--time-zone", "Europe/Berlin")


def array(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """One array of JSON in a file."""
    path = folder / "array.json"
    records = [
        {"click_id": f"k{n}", "click_time": f"2026-03-01 10:00:{n % 60:02}", "app": n % 5}
        for n in range(ROWS)
    ]
    path.write_text(json.dumps(records))
    return path, ("--time-zone", "UTC")


def parquet(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Parquet with times and decimals as types."""
    path = folder / "table_impressions.parquet"
    duckdb.execute(
        f"""COPY (SELECT n::VARCHAR AS event_id, n % 3 AS advertiser_id,
            TIMESTAMPTZ '2026-03-01 10:00:00+00' + to_seconds(n) AS event_time,
            (n / 4)::DECIMAL(12, 2) AS cost, 'GBP' AS currency FROM range({ROWS}) t(n))
        TO '{path}'"""
    )
    return path, ()


FORMATS = (nested, packed, commas, semicolons, array, parquet)


@pytest.mark.parametrize("made", FORMATS, ids=lambda made: made.__name__)
def test_what_is_proposed_makes_events_of_all_records(
    made: Callable[[Path], tuple[Path, tuple[str, ...]]], tmp_path: Path
) -> None:
    """Inspected, converted if it has to be, back-filled, and summed as the file itself says."""
    path, given = made(tmp_path)
    mapping, logs = tmp_path / "mapping.toml", path
    if made in (commas, semicolons, array, parquet):
        logs = tmp_path / "converted"
        assert "adtally convert" in adtally("inspect", str(path), *given).output
        comma = ("--decimal-comma", "spend") if made is semicolons else ()
        done = adtally("convert", str(path), "--output", str(logs), *comma)
        assert done.exit_code == 0 and f"{ROWS} records" in done.output, done.output
    inspected(str(logs), *given, "--save", str(mapping))
    load_mapping(mapping)
    out = tmp_path / "out"
    told = ("--input", str(logs), "--mapping", str(mapping), "--output", str(out), "--quiet")
    done = adtally("backfill", *told)
    assert done.exit_code == 0, done.output
    connection = duckdb.connect()
    connection.execute((out / "views.sql").read_text())
    sums = "sum(impressions), sum(clicks), sum(conversions), sum(cost_micros)"
    found = connection.execute(
        f"SELECT advertiser_id, {sums} FROM summaries GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert found == connection.execute(_ORACLES[made.__name__].format(path=path)).fetchall()
    assert connection.execute("SELECT count(*) FROM dead_letters").fetchone() == (0,)


_SHAPE = (
    "SELECT {advertiser}::VARCHAR AS a, count(*) FILTER ({kind} = 'i')::HUGEINT, "
    "count(*) FILTER ({kind} = 'c')::HUGEINT, count(*) FILTER ({kind} = 'v')::HUGEINT, "
    "{cost} FROM {source} GROUP BY ALL ORDER BY 1"
)


def _oracle(source: str, advertiser: str, kind: str, cost: str) -> str:
    return _SHAPE.format(source=source, advertiser=advertiser, kind=kind, cost=cost)


_ORACLES = {
    "nested": _oracle(
        "read_json('{path}')",
        "account.id",
        "CASE kind WHEN 'IMP' THEN 'i' WHEN 'CLK' THEN 'c' ELSE 'v' END",
        "sum(round(price * 1000000)::HUGEINT)",
    ),
    "packed": _oracle("read_json('{path}')", "advertiser", "left(event, 1)", "sum(cost_micros)"),
    "commas": _oracle(
        "read_csv('{path}')",
        '"Advertiser ID"',
        'left("Type", 1)',
        'sum(round("Cost" * 1000000)::HUGEINT)',
    ),
    "semicolons": _oracle(
        "read_csv('{path}', delim = ';', all_varchar = true)",
        "client",
        "'c'",
        "sum((replace(replace(spend, '.', ''), ',', '.')::DECIMAL(12, 2) * 1000000)::HUGEINT)",
    ),
    "array": _oracle("read_json('{path}')", "app", "'c'", "0::HUGEINT"),
    "parquet": _oracle(
        "read_parquet('{path}')", "advertiser_id", "'i'", "sum((cost * 1000000)::HUGEINT)"
    ),
}


def test_what_cannot_be_known_is_asked(tmp_path: Path) -> None:
    """Days that may be months, whole amounts, no zone, no currency, no type, unknown types."""
    path = write_json(
        tmp_path / "a.jsonl",
        (
            {"t": f"{n % 12 + 1:02}/{n % 12 + 1:02}/2026 10:00:00", "adv": "a", "price": n, "id": n}
            for n in range(50)
        ),
    )
    said = inspected(str(path), code=1)
    for doubt in (
        "with the day first and with the month first",
        "a wrong guess bills a hundred times too much",
        "UTC is assumed",
        "no field names the currency",
        "clicks are assumed",
    ):
        assert doubt in said
    write_json(
        path,
        (
            {
                "time": "2026-03-01T00:00:00Z",
                "event_id": n,
                "event": ("tap", "view", "odd")[n % 3],
            }
            for n in range(30)
        ),
    )
    said = inspected(str(path), code=1)
    assert "nothing is known of odd (10): dead letters" in said
    assert "10 no_event_rule" in said
    assert "all events would be of one, called 'all'" in said


def test_records_with_our_own_names_need_none(tmp_path: Path) -> None:
    assert (
        adtally(
            "generate", "--events", "200", "--seed", "1", "--output", str(tmp_path / "m")
        ).exit_code
        == 0
    )
    said = inspected(str(tmp_path / "m" / "logs"))
    assert "no mapping is needed" in said and "--mapping" not in said


def test_ids_that_are_shared_are_not_taken_for_identities(tmp_path: Path) -> None:
    """Clicks would be thrown away as copies of each other."""
    records = (
        {"time": f"2026-03-01T00:00:{n % 60:02}Z", "id": n % 9, "adv": "a", "type": "click"}
        for n in range(90)
    )
    said = inspected(str(write_json(tmp_path / "a.jsonl", records)))
    assert "event_id =" not in said and "no event_id: ids are made of file" in said


def test_real_clicks(real_clicks: Path, tmp_path: Path) -> None:
    """The proposal says what the mapping says that a person wrote."""
    mapping = tmp_path / "mapping.toml"
    inspected(str(real_clicks), "--time-zone", "UTC", "--save", str(mapping))
    ours = Path(__file__).parents[2] / "pipelines" / "mappings" / "talkingdata.toml"
    found, wanted = load_mapping(mapping), load_mapping(ours)
    for one, other in zip(found.events, wanted.events, strict=True):
        assert {name: (rule.source, rule.constant) for name, rule in one.fields.items()} == {
            name: (rule.source, rule.constant) for name, rule in other.fields.items()
        }


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n\n", "no record of JSON"),
        ("a.log", b"\x00\x01\x02" * 999, "binary data"),
        ("a.log", gzip.compress(b"{}", mtime=0), "needs its ending"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz"),
        ("a.jsonl", b'{"a": 1}\n' * 9, "no field holds times"),
        ("a.jsonl", b'{"a": "' + b"x" * 2 * SAMPLE_BYTES, "no record of JSON"),
        ("a.csv", "t\xe4glich;a\n1;2\n".encode("latin-1"), "a.csv"),
        (
            "access.log",
            b'1.2.3.4 - - [01/Mar/2026:10:00:00 +0000] "GET /c?x=1 HTTP/1.1" 200 5\n' * 9,
            "access log",
        ),
    ],
)
def test_what_is_no_log_is_said(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert said in inspected(str(path), code=2)


def test_paths_and_files_that_are_there(tmp_path: Path) -> None:
    inspected(str(tmp_path / "absent.jsonl"), code=2)
    inspected(str(tmp_path), code=2)
    path, _ = packed(tmp_path)
    saved = tmp_path / "mapping.toml"
    saved.write_text("mine")
    assert "--force replaces it" in inspected(str(path), "--save", str(saved), code=2)
    inspected(str(path), "--save", str(saved), "--force")
    assert saved.read_text() != "mine"
    path.with_suffix(".csv").write_text("a,b\n1,2\n")
    assert "of several formats" in inspected(str(tmp_path / "packed*"), code=2)


def test_no_value_orders_a_terminal_or_breaks_out_of_a_comment(tmp_path: Path) -> None:
    evil = 'x\x1b[2J"\n[fields]\nip = "a"'
    records = (
        {"time": f"2026-03-01T00:00:0{n}Z", "adv": evil, "type": f"click{evil}" if n else "click",
         evil: "1", "time\n": "2026-03-01T00:00:00Z"}
        for n in range(9)
    )  # fmt: skip
    said = inspected(
        str(write_json(tmp_path / "a.jsonl", records)), "--event-type", "click", code=1
    )
    assert "\x1b" not in said and '\nip = "a"' not in said


def test_lines_of_another_shape_are_kept_beside(tmp_path: Path) -> None:
    path, _ = commas(tmp_path)
    path.write_text(path.read_text() + "only,two\n")
    out = tmp_path / "converted"
    done = adtally("convert", str(path), "--output", str(out))
    assert done.exit_code == 1 and "1 lines were passed over" in done.output
    (beside,) = out.glob("_rejected-*")
    told = json.loads(beside.read_text())
    assert told["text"].strip() == "only,two" and told["line"] == ROWS + 2
    first = (out / "commas.csv.jsonl.gz").read_bytes()
    again = adtally("convert", str(path), "--output", str(out))
    assert again.exit_code == 2 and "is there already" in again.output
    assert adtally("convert", str(path), "--output", str(out), "--force").exit_code == 1
    assert (out / "commas.csv.jsonl.gz").read_bytes() == first
    assert len(gzip.decompress(first).splitlines()) == ROWS
    assert not list(out.glob(".*"))
    wrong = adtally("convert", str(path), "--output", f"{out}2", "--decimal-comma", "Price")
    assert wrong.exit_code == 2 and "there is no column Price" in wrong.output


def test_two_files_of_one_name_do_not_become_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        commas(tmp_path / "in" / name)
    done = adtally("convert", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    assert done.exit_code == 2 and "one be lost" in done.output
    assert not (tmp_path / "out").exists()
