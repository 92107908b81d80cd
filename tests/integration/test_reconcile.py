"""Faults planted in summaries, documents and log: each is found where it is, and named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from adtally.io.elasticsearch import connect
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from tests import reconciling
from tests.reconciling import Place, run, states, windows, windows_of
from tests.stores import ObjectStore

pytestmark = pytest.mark.elasticsearch
BASE = "summaries/window=60s/generation=0/**/*.parquet"
HARMLESS = {"equal", "late"}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reconciling.logs_with_late(tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def clean(
    logs: Path, tmp_path_factory: pytest.TempPathFactory, elasticsearch_node: ElasticsearchNode
) -> Place:
    """An output that nobody breaks, and its documents."""
    place = Place.of(tmp_path_factory.mktemp("clean"), elasticsearch_node.url)
    place.backfill(logs)
    return place


@pytest.fixture
def place(logs: Path, tmp_path: Path, elasticsearch_node: ElasticsearchNode) -> Place:
    """One to be broken."""
    made = Place.of(tmp_path, elasticsearch_node.url)
    made.backfill(logs)
    return made


def change(place: Place, hit: dict[str, Any], **fields: Any) -> None:
    """Change a document as anybody could."""
    with connect(place.config) as client:
        client.update(
            index=hit["_index"], id=hit["_id"], routing=hit["_routing"], doc=fields, refresh=True
        )


def base(hits: list[dict[str, Any]], least: int = 2) -> dict[str, Any]:
    """A document of a base window that has some clicks."""
    found = [
        hit
        for hit in hits
        if hit["_source"]["window_seconds"] == 60 and hit["_source"]["clicks"] >= least
    ]
    return sorted(found, key=lambda hit: str(hit["_id"]))[0]


def window(hit: dict[str, Any]) -> tuple[Any, ...]:
    source = hit["_source"]
    start = source["window_start"].replace(".000Z", "Z")
    return source["advertiser_id"], source["window_seconds"], start


def test_what_is_whole_is_equal_and_late_events_are_counted(clean: Place) -> None:
    told = clean.reconcile()
    assert told["equal"] and told["broken_windows"] == 0
    assert states(told) == {"parquet": HARMLESS, "elasticsearch": HARMLESS}
    assert told["windows"]["parquet"] == told["windows"]["elasticsearch"]
    assert set(told["windows"]["parquet"]) == {
        "summaries",
        "flags",
        "look-back flags",
        "adjustments",
    }
    late = clean.sql(
        "SELECT advertiser_id, strftime(window_start, '%Y-%m-%dT%H:%M:%SZ'), count(*) "
        "FROM event_rows WHERE late GROUP BY ALL"
    )
    found = {
        (one["advertiser_id"], one["window_start"], one["seen_in_log"] - one["seen_on_time"])
        for one in told["findings"]
        if one["side"] == "parquet" and one["window_seconds"] == 60
    }
    assert found == set(late) and len(late) > 10
    assert all("came too late for it" in one["cause"] for one in told["findings"])
    clean.reconcile("--fail-on-late", code=1)
    assert clean.reconcile(elasticsearch=False)["windows"].keys() == {"parquet"}
    one = clean.reconcile("--advertiser", "adv-00000,adv-00003")
    assert {row[0] for row in windows(one["findings"])} <= {"adv-00000", "adv-00003"}


def test_a_lost_file_of_summaries(place: Place) -> None:
    lost = place.files(BASE)[0]
    rows = pl.read_parquet(lost)
    lost.unlink()
    told = place.reconcile(code=1)
    assert states(told)["elasticsearch"] == HARMLESS
    assert windows(told["findings"], side="parquet", state="missing") == windows_of(rows)
    causes = {one["cause"] for one in told["findings"] if one["state"] == "missing"}
    assert all(cause.endswith("and elasticsearch has it: a file was lost") for cause in causes)
    assert told["too_much"]["parquet"]["clicks"] == -rows["clicks"].sum()


def test_a_lost_file_of_flags_and_one_of_verdicts(place: Place) -> None:
    flags = place.files("flags/generation=0/**/*.parquet")
    verdicts = place.files("verdicts/generation=0/**/*.parquet")
    for path in (*flags, *verdicts):
        path.unlink()
    told = place.reconcile(code=1)
    kinds = {one["kind"] for one in told["findings"] if one["state"] == "missing"}
    assert kinds == {"flags", "look-back flags", "adjustments"}
    assert states(told)["elasticsearch"] == HARMLESS


def test_documents_that_were_deleted(place: Place) -> None:
    hits = place.documents("summaries")
    gone = [hit for hit in hits if hit["_routing"] == "adv-00001"]
    with connect(place.config) as client:
        for hit in gone:
            client.delete(index=hit["_index"], id=hit["_id"], routing=hit["_routing"])
    told = place.reconcile(code=1)
    assert windows(told["findings"], side="elasticsearch", state="missing") == set(
        map(window, gone)
    )
    assert states(told)["parquet"] == HARMLESS
    (cause,) = {
        one["cause"].split(": ")[1] for one in told["findings"] if one["state"] == "missing"
    }
    assert cause == "documents were deleted, or the run was made without --elasticsearch"
    with connect(place.config) as client:
        client.indices.delete(index=f"{place.prefix}-flags-2026.03")
    told = place.reconcile(code=1)
    causes = [one["cause"] for one in told["findings"] if one["kind"] == "flags"]
    assert causes and all(f"no index {place.prefix}-flags-2026.03" in cause for cause in causes)


def test_documents_doubled_and_altered(place: Place) -> None:
    hits = place.documents("summaries")
    hit = base(hits)
    other = next(one for one in hits if window(one) != window(hit) and one["_source"]["clicks"])
    with connect(place.config) as client:
        client.index(
            index=hit["_index"], id="copied", routing=hit["_routing"], document=hit["_source"]
        )
    change(place, other, clicks=other["_source"]["clicks"] + 1)
    told = place.reconcile(code=1)
    found = {one["state"]: one for one in told["findings"] if one["state"] not in HARMLESS}
    assert set(found) == {"doubled", "altered"}
    assert windows(told["findings"], state="doubled") == {window(hit)}
    assert windows(told["findings"], state="altered") == {window(other)}
    assert "ids that adtally does not give" in found["doubled"]["cause"]
    assert "something other than adtally" in found["altered"]["cause"]
    assert states(told)["parquet"] == HARMLESS


def test_a_document_in_an_earlier_state(place: Place) -> None:
    hit = base(place.documents("summaries"), least=3)
    others = [one for one in place.documents("summaries") if one["_index"] == hit["_index"]]
    version = hit["_source"]["version"] - 1
    with connect(place.config) as client:
        client.indices.delete(index=hit["_index"])  # an index does not let its versions go back
        for one in others:
            earlier = {"clicks": 1, "version": version} if one["_id"] == hit["_id"] else {}
            document = {**one["_source"], **earlier}
            client.index(
                index=one["_index"],
                id=one["_id"],
                routing=one["_routing"],
                document=document,
                version=document["version"],
                version_type="external",
            )
    told = place.reconcile(code=1)
    (found,) = [one for one in told["findings"] if one["state"] not in HARMLESS]
    assert found["state"] == "outdated" and windows([found]) == {window(hit)}
    seen = hit["_source"]["version"]
    assert found["cause"].startswith(f"1 rows had seen {seen - 1} of {seen} events")


def test_rows_of_a_file_altered_and_copied(place: Place) -> None:
    path = place.files(BASE)[0]
    rows = pl.read_parquet(path)
    changed = rows.with_columns(
        clicks=pl.when(pl.int_range(pl.len()) == 3).then(pl.col("clicks") + 5).otherwise("clicks")
    )
    changed.write_parquet(path)
    told = place.reconcile(code=1)
    broken = windows(told["findings"], side="parquet", state="altered")
    assert broken == windows_of(rows[3:4])
    assert told["too_much"]["parquet"]["clicks"] == 5
    rows.write_parquet(path)
    (path.parent / "copy.parquet").write_bytes(path.read_bytes())
    told = place.reconcile()
    copied = windows(told["findings"], side="parquet", state="copies")
    late = windows(told["findings"], side="parquet", state="late")
    assert copied | late >= windows_of(rows) and copied and not copied & late
    changed.write_parquet(path.parent / "copy.parquet")
    told = place.reconcile(code=1)
    assert windows(told["findings"], state="altered") == windows_of(rows[3:4])
    (cause,) = {one["cause"] for one in told["findings"] if one["state"] == "altered"}
    assert cause.startswith("files hold rows of one version that differ")


def test_a_window_whose_events_came_in_several_runs(
    logs: Path, tmp_path: Path, elasticsearch_node: ElasticsearchNode
) -> None:
    lines = [line for path in sorted(logs.rglob("*.gz")) for line in _lines(path)]
    for number in (0, 1):
        folder = tmp_path / f"half-{number}"
        folder.mkdir()
        (folder / "own.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines[number::2])))
    place = Place.of(tmp_path, elasticsearch_node.url)
    place.backfill(tmp_path / "half-0")
    place.backfill(tmp_path / "half-1")
    told = place.reconcile(code=1)
    outdated = [one for one in told["findings"] if one["state"] == "outdated"]
    assert {one["side"] for one in outdated} == {"parquet", "elasticsearch"} and len(outdated) > 50
    summaries = [one for one in outdated if one["kind"] == "summaries"]
    assert all("the events came in several runs" in one["cause"] for one in summaries)
    told = place.reconcile("--repair")
    assert states(told["after"]) == {"parquet": {"equal"}, "elasticsearch": {"equal"}}
    _summaries_are_those_of_the_log(place)


def test_log_that_lost_a_file_is_not_taken_for_the_truth(place: Place) -> None:
    lost = place.files("events/date=2026-03-01/hour=01/*.parquet")
    events = sum(pl.read_parquet(path).height for path in lost)
    for path in lost:
        path.unlink()
    told = place.reconcile("--from", "2026-03-01T01:00Z", "--to", "2026-03-01T02:00Z", code=1)
    short = [one for one in told["findings"] if one["state"] == "log short"]
    assert {one["side"] for one in short} == {"parquet", "elasticsearch"}
    minutes = [one for one in short if one["window_seconds"] == 60 and one["kind"] == "summaries"]
    of_hour = "window_start >= '2026-03-01 01:00Z' AND window_start < '2026-03-01 02:00Z'"
    late = place.sql(
        f"SELECT count(*) FROM read_parquet('{place.output}/late/**/*.parquet') WHERE {of_hour}"
    )
    stored = [one for one in minutes if one["side"] == "parquet"]
    seen = sum(one["seen_stored"] - one["seen_in_log"] for one in stored)
    assert seen == events - late[0][0]
    assert all("the log has no file of that hour" in one["cause"] for one in minutes)
    before = _stored(place)
    told = place.reconcile("--repair", code=1)
    assert told["repaired"] == [] and len(told["left"]) == 1
    assert _stored(place) == before
    told = place.reconcile("--repair", "--trust-log")
    assert states(told["after"]) == {"parquet": {"equal"}, "elasticsearch": {"equal"}}


def test_events_that_came_after_a_correction(place: Place, tmp_path: Path) -> None:
    place.retally()
    more = tmp_path / "more"
    more.mkdir()
    event = {
        "event_type": "click",
        "event_id": "afterwards",
        "occurred_at": "2026-03-01T01:10:00Z",
        "received_at": "2026-03-01T09:00:00Z",
        "advertiser_id": "adv-00002",
        "campaign_id": "new",
    }
    (more / "own.jsonl").write_text(json.dumps(event) + "\n")
    place.backfill(more)
    told = place.reconcile()
    found = [one for one in told["findings"] if one["kind"] == "summaries"]
    assert {(one["side"], one["window_seconds"]) for one in found} == {
        (side, seconds) for side in ("parquet", "elasticsearch") for seconds in (60, 3600, 86400)
    }
    assert {(one["state"], one["cause"]) for one in found} == {
        ("late", "1 event came into the log after generation 1 was tallied")
    }


def test_corrections_that_did_not_reach_a_place(place: Place) -> None:
    place.retally(elasticsearch=False)
    told = place.reconcile(code=1)
    assert states(told)["parquet"] == {"equal"}
    assert "outdated" in states(told)["elasticsearch"]
    causes = {one["cause"].split(",")[0] for one in told["findings"] if one["state"] == "outdated"}
    assert causes == {"has generation 0"}
    place.retally()
    assert states(place.reconcile())["elasticsearch"] == {"equal"}
    (place.output / "generations/generation=2.parquet").unlink()
    told = place.reconcile()  # generation 1 rules again, and says the same
    assert states(told) == {"parquet": {"equal"}, "elasticsearch": {"equal"}}
    (place.output / "generations/generation=1.parquet").unlink()
    told = place.reconcile(code=1)
    assert "uncommitted" in states(told)["elasticsearch"]
    assert states(told)["parquet"] == HARMLESS


def test_other_rules_are_named(place: Place, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("[rules.givt_click_rate_ip]\nthreshold = 1\n")
    told = place.reconcile("--rules", str(rules), code=1)
    found = [one for one in told["findings"] if one["state"] == "other rules"]
    assert {one["side"] for one in found} == {"parquet", "elasticsearch"}
    assert {one["kind"] for one in found} >= {"summaries", "flags"}
    told = place.reconcile("--rules", str(rules), "--repair")
    assert states(told["after"]) == {"parquet": {"equal"}, "elasticsearch": {"equal"}}


def test_repair_of_everything_at_once(place: Place) -> None:
    hits = place.documents("summaries")
    hit = base(hits)
    place.files(BASE)[0].unlink()
    place.files("flags/generation=0/**/*.parquet")[0].unlink()
    with connect(place.config) as client:
        client.index(index=hit["_index"], id="x", routing=hit["_routing"], document=hit["_source"])
        for gone in (one for one in hits if one["_routing"] == "adv-00004"):
            client.delete(index=gone["_index"], id=gone["_id"], routing=gone["_routing"])
    change(place, base([one for one in hits if one["_routing"] == "adv-00000"]), clicks=999)
    told = place.reconcile("--repair")
    assert told["broken_windows"] > 0 and told["left"] == []
    assert told["repaired"] == [[1772323200000, 1772323200000 + 86_400_000]]
    assert states(told["after"]) == {"parquet": {"equal"}, "elasticsearch": {"equal"}}
    _summaries_are_those_of_the_log(place)
    assert place.reconcile("--repair")["repaired"] == []  # there is nothing left to do


def test_only_the_hours_that_differ_are_tallied_again(
    logs: Path, tmp_path: Path, elasticsearch_node: ElasticsearchNode
) -> None:
    place = Place.of(tmp_path, elasticsearch_node.url)
    there = ("--output", str(place.output), *place.cluster)
    run("backfill", "--input", str(logs), *there, "--elasticsearch-setup", "--quiet")
    run("backfill", "--input", f"{place.output}/events", *there, "--quiet")
    hit = next(
        one
        for one in place.documents("summaries")
        if one["_source"]["window_start"].startswith("2026-03-01T02:3")
    )
    change(place, hit, clicks=12_345)
    told = place.reconcile("--repair")
    two = 1772323200000 + 2 * 3_600_000
    assert told["repaired"] == [[two, two + 3_600_000]]
    generations = {
        (one["_source"]["window_start"][:13], one["_source"]["generation"])
        for one in place.documents("summaries")
    }
    assert generations == {
        ("2026-03-01T00", 1),
        ("2026-03-01T01", 1),
        ("2026-03-01T02", 2),
    }


def test_a_log_that_was_read_under_two_names(tmp_path: Path) -> None:
    event = {"event_type": "click", "occurred_at": "2026-03-01T00:00:01Z", "advertiser_id": "a"}
    lines = "".join(json.dumps({**event, "ip": f"192.0.2.{n}"}) + "\n" for n in range(50))
    for name in ("one", "two"):
        (tmp_path / "logs" / name).mkdir(parents=True)
        (tmp_path / "logs" / name / "clicks.jsonl").write_text(lines)
    out = tmp_path / "out"
    run("backfill", "--input", str(tmp_path / "logs"), "--output", str(out), "--quiet")
    said = run("reconcile", "--output", str(out), "--quiet").stdout
    assert "50 events that equal another" in said.replace("\n", " ")
    assert "one/clicks.jsonl and " in said.replace("\n", "")


def test_an_output_in_a_store(logs: Path, store: ObjectStore) -> None:
    out = f"{store.scheme}://{store.make_bucket()}/out"
    there = ("--output", out, "--quiet", *store.arguments(store.url))
    run("backfill", "--input", str(logs), "--rollup", "1h", *there)
    told = json.loads(run("reconcile", *there, "--format", "json").stdout)
    assert told["equal"] and states(told) == {"parquet": HARMLESS}
    told = json.loads(run("reconcile", *there, "--format", "json", "--repair").stdout)
    assert states(told["after"]) == {"parquet": {"equal"}}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--repair", "--advertiser", "a"), "leave --advertiser out"),
        (("--trust-log",), "give --repair too"),
        (("--from", "2026-03-01T00:30Z"), "use 2026-03-01T00:00:00Z or 2026-03-01T01:00:00Z"),
        (("--from", "2026-03-02", "--to", "2026-03-01"), "nothing is final between"),
        (("--save", "findings.txt"), "does not end in"),
    ],
    ids=["one tenant", "trust alone", "half an hour", "backwards", "no format"],
)
def test_what_cannot_be_compared_is_said(clean: Place, given: tuple[str, ...], says: str) -> None:
    result = run("reconcile", "--output", str(clean.output), "--quiet", *given, code=2)
    assert says in result.output.replace("\n", " ")


def test_no_output_and_an_empty_range(clean: Place, tmp_path: Path) -> None:
    assert "is no output of adtally" in run(
        "reconcile", "--output", str(tmp_path), "--quiet", code=2
    ).output.replace("\n", " ")
    told = clean.reconcile("--from", "2025-01-01", "--to", "2025-01-02")
    assert told["equal"] and told["findings"] == []


def test_findings_and_rows_are_saved(place: Place, tmp_path: Path) -> None:
    hit = base(place.documents("summaries"))
    change(place, hit, clicks=hit["_source"]["clicks"] + 7)
    saved, rows = tmp_path / "findings.parquet", tmp_path / "rows.csv"
    result = run(
        *("reconcile", "--output", str(place.output), "--quiet", *place.cluster),
        *("--save", str(saved), "--save-rows", str(rows), "--rows", "1"),
        code=1,
    )
    assert "--save FILE has all" in result.stdout
    found = pl.read_parquet(saved)
    assert found.row(0, named=True)["state"] == "altered"
    assert set(found["state"]) == {"altered", "late"}
    differing = pl.read_csv(rows)
    assert differing["place"].to_list() == ["stored", "log"]
    assert differing["clicks"].to_list() == [hit["_source"]["clicks"] + 7, hit["_source"]["clicks"]]


def _lines(path: Path) -> list[bytes]:
    return gzip.decompress(path.read_bytes()).splitlines()


def _stored(place: Place) -> dict[str, Any]:
    return {
        kind: sorted((hit["_id"], hit["_version"]) for hit in place.documents(kind))
        for kind in ("summaries", "flags")
    }


def _summaries_are_those_of_the_log(place: Place) -> None:
    """By SQL over the log, which shares no code with the tally; documents likewise."""
    measures = "impressions, clicks, conversions, cost_micros, revenue_micros"
    identity = "advertiser_id, campaign_id, currency, window_start"
    wanted = place.sql(
        "SELECT advertiser_id, campaign_id, coalesce(currency, 'XXX') AS currency, window_start, "
        "count(*) FILTER (event_type = 'impression'), count(*) FILTER (event_type = 'click'), "
        "count(*) FILTER (event_type = 'conversion'), coalesce(sum(cost_micros), 0)::BIGINT, "
        "coalesce(sum(revenue_micros), 0)::BIGINT FROM events GROUP BY ALL ORDER BY ALL"
    )
    stored = place.sql(
        f"SELECT {identity}, {measures} FROM summaries WHERE window_seconds = 60 "
        f"AND impressions + clicks + conversions > 0 ORDER BY ALL"
    )
    assert stored == wanted and len(wanted) > 500
    names = [name.strip() for name in f"{identity}, {measures}".split(",")]
    frame = pl.DataFrame(
        [hit["_source"] for hit in place.documents("summaries")], infer_schema_length=None
    ).filter(
        (pl.col("window_seconds") == 60)
        & (pl.col("impressions") + pl.col("clicks") + pl.col("conversions") > 0)
    )
    documents = frame.with_columns(pl.col("window_start").str.to_datetime(time_zone="UTC"))
    assert sorted(map(str, documents.select(names).rows())) == sorted(
        map(str, pl.DataFrame(wanted, schema=names, orient="row").rows())
    )
