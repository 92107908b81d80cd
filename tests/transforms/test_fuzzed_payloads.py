"""Twenty thousand of the million payloads of ``make fuzz``, and what fuzzing has found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adtally.io.read_logs import LogChunk, Segment
from adtally.transforms.decode import decode
from adtally.transforms.mapping import identity_mapping
from tests import fuzz
from tests.fuzz_judge import judge
from tests.fuzz_payloads import NOW_MS


def test_every_payload_is_accounted_for(tmp_path: Path) -> None:
    totals = fuzz.fuzz(20_000, 20261126, str(tmp_path), end_every=5, judged=2)
    shutil.rmtree(tmp_path)
    assert {name: count.payloads for name, count in totals.items()} == {
        "own": 10_000,
        "talkingdata": 5_000,
        "nested": 5_000,
    }
    for count in totals.values():  # what is made covers acceptance as well as every refusal
        assert 0.3 < count.events / count.payloads < 0.8
        assert {"invalid_json", "invalid_utf8", "too_deep", "id_too_long", "invalid_id"} <= {
            *count.dead
        }
        assert count.batches_to_the_end


def test_the_fuzzer_notices_what_is_lost_or_judged_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = fuzz.ways()[0]
    lines = [b"{}", b"x"]
    fuzz.fuzz_batch(lines, own)
    for name, wrong in (("dead_letters", []), ("records", 3), ("dead", 0)):

        def losing(
            *args: object, name: str = name, wrong: object = wrong, **named: object
        ) -> object:
            found = decode(*args, **named)  # type: ignore[arg-type]
            return fuzz.replace(found, **{name: wrong})

        with monkeypatch.context() as patch:
            patch.setattr(fuzz, "decode", losing)
            with pytest.raises(fuzz.Unaccounted):
                fuzz.fuzz_batch(lines, own)
    with monkeypatch.context() as patch:
        patch.setattr(fuzz, "judge", lambda line: {"event_id": "e"})
        with pytest.raises(fuzz.Unaccounted, match="oracle"):
            fuzz.fuzz_batch(lines, own)


@pytest.mark.parametrize("digits", [18, 40, 60])
def test_a_number_with_leading_zeros_counts_whatever_its_neighbours_are(digits: int) -> None:
    """Found: 41 zeros and more counted only where no neighbour needed exact arithmetic."""
    text = "0" * digits + "5"
    line = (
        b'{"event_id":"%s","event_type":"click","occurred_at":"2026-03-01T00:00:00Z",'
        b'"advertiser_id":"a","currency":"EUR","cost_micros":"%s"}\n'
    )
    first = line % (b"a", text.encode())
    assert judge(first)["cost_micros"] == 5  # type: ignore[index, call-overload]
    for neighbour in (b"1", b"1.0"):
        data = first + line % (b"b", neighbour)
        found = decode(
            LogChunk("b", 0, data, [Segment(0, "/a", 0)]), identity_mapping(), now_ms=NOW_MS
        )
        assert found.events["cost_micros"].to_pylist() == [5, 1]
