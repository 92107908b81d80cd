"""Counts of a run that add up exactly, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


class CountsDiffer(RuntimeError):
    """Counts that must be equal are not: something was lost or doubled on the way."""


@dataclass(frozen=True)
class Report:
    """What a run did; every figure comes from the counters of its steps.

    Attributes:
        counters: name to value, see docs/operations.md.
        seconds: wall time.
        files: files listed.
        stored_bytes: their size as stored.
        retally: whether the log was read and not written.
        tallied: whether events were tallied, or only appended to the log.
    """

    counters: dict[str, int]
    seconds: float
    files: int
    stored_bytes: int
    retally: bool = False
    tallied: bool = True

    def get(self, name: str) -> int:
        return self.counters.get(name, 0)

    @property
    def dead_letter_ratio(self) -> float:
        """Dead records per record read."""
        return self.get("records_dead") / max(1, self.get("records_read"))

    def check(self) -> None:
        """Compare the counts of steps that saw the same things.

        Raises:
            CountsDiffer: naming the sums that are not equal.
        """
        get = self.get
        sums = []
        if not self.retally:
            decoded = get("records_decoded") + get("records_dead")
            sums += [
                ("records read", get("records_read"), "decoded + dead letters", decoded),
                ("events", get("events"), "rows written to the log", get("log_rows")),
            ]
        if self.tallied:
            parts = ("events_counted", "duplicates", "events_late", "events_out_of_range")
            total = sum(get(name) for name in (*parts, "log_copies"))
            sums.append(("events", get("events"), "counted + duplicates + late + others", total))
            sums.append(("late events", get("events_late"), "late rows written", get("late_rows")))
        wrong = [f"{a} {x:,} but {b} {y:,}" for a, x, b, y in sums if x != y]
        if wrong:
            raise CountsDiffer(
                f"counts differ: {'; '.join(wrong)}. The output cannot be trusted; please run "
                f"again and report this with the run's record."
            )

    def record(self) -> dict[str, Any]:
        """As plain data, for the run's record."""
        return {
            "counters": dict(sorted(self.counters.items())),
            "seconds": round(self.seconds, 3),
            "files": self.files,
            "stored_bytes": self.stored_bytes,
        }


def show(report: Report, console: Console) -> None:
    """Print the counts, each sum under its parts."""
    get = report.get
    table = Table(title="What was done", show_header=False, title_justify="left")
    table.add_column("what")
    table.add_column("count", justify="right")
    table.add_column("how it adds up", style="dim")
    rows = [("files", report.files, f"{report.stored_bytes / 1e6:,.1f} MB as stored")]
    if get("files_unreadable"):
        rows.append(("files not readable", get("files_unreadable"), "named in the dead letters"))
    if not report.retally:
        rows += [
            ("records read", get("records_read"), "= decoded + dead letters"),
            ("  decoded", get("records_decoded"), ""),
            ("  dead letters", get("records_dead"), f"{report.dead_letter_ratio:.3%} of records"),
        ]
        if get("records_over_limit"):
            rows.append(("    over a limit", get("records_over_limit"), "see docs/limits.md"))
        if get("records_without_letter"):
            note = "too many; counted in a letter that stands for them"
            rows.append(("    without their own", get("records_without_letter"), note))
    rows.append(("events", get("events"), _events_note(report)))
    if report.tallied:
        rows += [
            ("  counted once", get("events_counted"), f"in {get('summary_rows'):,} summary rows"),
            ("  duplicates", get("duplicates"), "counted in the summaries as such"),
            ("  late", get("events_late"), "in the log; a re-tally counts them"),
        ]
        if get("events_folded"):
            note = f"of {get('rows_folded'):,} rows, in {get('overflow_rows'):,} for all others"
            rows.append(("  beyond row limit", get("events_folded"), note))
        if get("events_out_of_range"):
            note = "outside --from and --to" + ("; rules look back at them" * report.retally)
            rows.append(("  out of range", get("events_out_of_range"), note))
        if get("log_copies"):
            rows.append(("  copies in the log", get("log_copies"), "rows stored twice; no events"))
        if get("rows_of_too_much_money"):
            note = "rows whose sum 64 bits do not hold; see the log, docs/limits.md"
            rows.append(("too much money", get("rows_of_too_much_money"), note))
        rows.append(("invalid clicks (GIVT)", get("givt_clicks"), f"{get('flags'):,} flags"))
        if get("look_back_flags"):
            suspected = get("look_back_sivt_clicks") + get("look_back_sivt_conversions")
            note = f"{get('look_back_flags'):,} flags of rules that look back"
            rows.append(("  GIVT clicks more", get("look_back_givt_clicks"), note))
            rows.append(("suspected (SIVT)", suspected, "clicks and conversions"))
    if "documents_written" in report.counters:
        dead = get("documents_dead")
        note = f"{get('documents_superseded'):,} newer there already, {dead:,} refused"
        rows.append(("documents written", get("documents_written"), note))
    for what, count, note in rows:
        table.add_row(what, f"{count:,}", note)
    console.print(table)
    rate = get("events") / max(report.seconds, 1e-9)
    console.print(f"{report.seconds:,.1f} s, {rate:,.0f} events/s once started")


def _events_note(report: Report) -> str:
    if report.retally:
        return "= counted + duplicates + copies + out of range, from the log"
    if not report.tallied:
        return "appended to the log"
    return "= counted + duplicates + late; as many rows in the log"
