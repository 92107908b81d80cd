"""Ask an output in SQL: an embedded DuckDB over its views, which can read its files alone."""

from __future__ import annotations

import concurrent.futures
import contextlib
import difflib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import duckdb
import psutil
import pyarrow as pa

from adtally.io.logs import absolute
from adtally.io.manifest import MANIFEST_NAME, read_manifest
from adtally.io.ranged_files import STORES, RangedFiles
from adtally.io.stored import Restriction, list_stored, partition_columns, scan
from adtally.io.views import views_sql
from adtally.pipelines.query_parts import (
    MISTAKES,
    QueryError,
    QueryFailed,
    plain,
    scans,
    whole,
    without_end,
)

BATCH_ROWS: Final = 65_536

Answer = TypeVar("Answer")

_MISSING: Final = re.compile(
    r"(Table|(?:Table |Scalar |Aggregate |Table Macro )?Function) with name (\S+) does not exist"
)
_LINE: Final = re.compile(r"^LINE (\d+):", re.MULTILINE)
_MACROS: Final = ("summaries_by", "net_summaries_by")


@dataclass(frozen=True)
class Limits:
    """What a query may use.

    Attributes:
        memory: such as ``2GB``; None for four fifths of the machine's.
        threads: None for all cores.
        folder: where it may spill what does not fit; None for the system's folder.
    """

    memory: str | None = None
    threads: int | None = None
    folder: str | None = None


@dataclass(frozen=True)
class Cost:
    """What an answer took.

    Attributes:
        bytes_read: from the output; None where the system does not tell.
        bytes_stored: of all files of the output that the query's views stand on.
        files_read: of those.
        files: how many there are.
        row_groups_read: of Parquet files that were opened.
        row_groups: in these.
        requests: ranges of objects that were read; 0 on a disk.
        plan: as DuckDB draws it.
    """

    bytes_read: int | None
    bytes_stored: int
    files_read: int
    files: int
    row_groups_read: int
    row_groups: int
    requests: int
    plan: str


class Query:
    """An output, open for questions. Use it as a context manager.

    The engine reads the files of the output that lie in ``seen`` and no others, writes nothing but
    its temporary files, has no extensions, reaches no network but the output's store, and its
    settings are locked.

    Args:
        output: address of an output.
        seen: what of it is to be seen.
        limits: of memory and processors.

    Raises:
        QueryError: there is no such output, or the range cuts a window.
        OSError: it cannot be listed.
    """

    def __init__(
        self, output: str, seen: Restriction | None = None, limits: Limits | None = None
    ) -> None:
        output, seen = absolute(output).rstrip("/"), seen or Restriction()
        known = read_manifest(output)
        if known is None:
            raise QueryError(
                f"{output} has no {MANIFEST_NAME}, so it is no output of adtally; correct --output."
            )
        _check_range(seen, known["window_seconds"])
        scheme = output.partition("://")[0] if "://" in output else None
        if scheme is not None and scheme not in STORES:
            raise QueryError(
                f"{output} is asked on a disk, s3:// or gs:// only; copy it to one of them."
            )
        self._stored = list_stored(output, seen, tuple(known["dimensions"]))
        self._closing = contextlib.ExitStack()
        self._connection = self._closing.enter_context(duckdb.connect(config=_CONFIG))
        self._thread = self._closing.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        self._remote: RangedFiles | None = None
        try:
            self._open(output, known, limits or Limits())
        except BaseException:
            self._closing.close()
            raise

    def _open(self, output: str, known: dict[str, Any], limits: Limits) -> None:
        run = self._connection.execute
        scratch = tempfile.TemporaryDirectory(prefix="adtally-query-", dir=limits.folder)
        run("SET temp_directory = ?", [self._closing.enter_context(scratch)])
        run("SET TimeZone = 'UTC'")
        if limits.threads:
            run("SET threads = ?", [limits.threads])
        if limits.memory:
            with _told_as(QueryError, f"--memory {limits.memory}"):
                run("SET memory_limit = ?", [limits.memory])
        entries = self._stored.entries
        if "://" in output:
            self._remote = RangedFiles(entries)
            self._connection.register_filesystem(self._remote)
        for statement in self._stored.statements():
            run(statement)
        run(
            views_sql(
                output,
                known["window_seconds"],
                known["allowed_lateness_seconds"],
                known["dimensions"],
                scan=scan,
                partition=partition_columns(known["window_seconds"]),
            )
        )
        run("SET allowed_paths = ?", [[entry.path for entry in entries]])
        run("SET enable_external_access = false")
        run("SET lock_configuration = true")

    def __enter__(self) -> Query:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget it; temporary files are removed."""
        self._closing.close()

    def ask(self, sql: str) -> pa.RecordBatchReader:
        """The answer, batch by batch. Sums of int64 are int64.

        Raises:
            QueryError: the text is not one query, or not of what there is; says where.
            QueryFailed: it could not be answered.
        """
        checked = self._checked(sql)

        def begin() -> pa.RecordBatchReader:
            return self._connection.sql(checked).to_arrow_reader(BATCH_ROWS)

        with self._told():
            reader = self._aside(begin)
        return pa.RecordBatchReader.from_batches(plain(reader.schema), self._batches(reader))

    def explain(self, sql: str) -> Cost:
        """Run a query, throw its rows away, and say what it took.

        Raises:
            QueryError, QueryFailed: as :meth:`ask`.
        """
        checked = self._checked(sql)
        before, opened_before = self._bytes(), self._opened()
        requests_before = self._remote.requests if self._remote else 0
        with self._told():
            run = self._connection.execute
            analyze = f"EXPLAIN (ANALYZE, FORMAT JSON) {checked}"
            told = self._aside(lambda: run(analyze).fetchall()[0][1])
            after = self._bytes()
            drawn = run(f"EXPLAIN {checked}").fetchall()[0][1]
        scanned = list(scans(json.loads(told)))
        files_read = sum(int(scan["extra_info"].get("Total Files Read", 0)) for scan in scanned)
        if self._remote:
            files_read = len(self._opened() - opened_before)
        return Cost(
            None if before is None or after is None else after - before,
            sum(entry.size for entry in self._stored.entries),
            files_read,
            len(self._stored.entries),
            sum(scan.get("row_groups_scanned", 0) for scan in scanned),
            sum(scan.get("total_row_groups_to_scan", 0) for scan in scanned),
            self._remote.requests - requests_before if self._remote else 0,
            drawn,
        )

    def _aside(self, work: Callable[[], Answer]) -> Answer:
        """Work for DuckDB, in a thread: a signal reaches Python's main thread between two steps of
        Python alone, and a step of DuckDB may last as long as a query.

        Raises:
            KeyboardInterrupt: the work was ended.
        """
        doing = self._thread.submit(work)
        try:
            # Signals may reach another thread first, and do not wake this one.
            while not concurrent.futures.wait([doing], timeout=0.1).done:
                pass
            return doing.result()
        except KeyboardInterrupt:
            while not doing.done():  # what has not begun to run forgets that it was interrupted
                self._connection.interrupt()
                concurrent.futures.wait([doing], timeout=0.1)
            raise

    def _bytes(self) -> int | None:
        """Bytes read so far: of objects, or by this process."""
        if self._remote:
            return self._remote.bytes_read
        counters = getattr(psutil.Process(), "io_counters", None)  # not on macOS
        return getattr(counters(), "read_chars", None) if counters else None

    def _opened(self) -> set[str]:
        return set(self._remote.opened) if self._remote else set()

    def _checked(self, sql: str) -> str:
        """The one statement of a text, if it is a query and changes nothing."""
        with self._told():
            statements = self._connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise QueryError(
                "a query is one SELECT, which may begin with WITH or FROM; everything else is "
                "refused, as outputs are only read. SHOW TABLES and DESCRIBE events say what "
                "there is."
            )
        text = without_end(statements[0].query)
        # DuckDB calls WITH x AS (COPY ...) SELECT a SELECT; inside of another one it refuses it.
        with self._told(lines_above=1):
            self._connection.execute(f"DESCRIBE SELECT * FROM (\n{text}\n)").fetchall()
        return text

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        schema = plain(reader.schema)
        with self._told():
            while (batch := self._aside(lambda: next(reader, None))) is not None:
                arrays = [
                    whole(array, one) for array, one in zip(batch.columns, schema, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    @contextlib.contextmanager
    def _told(self, lines_above: int = 0) -> Iterator[None]:
        """What DuckDB says, with the lines as the user counts them."""
        try:
            yield
        except MISTAKES as error:
            raise QueryError(self._message(error, lines_above)) from error
        except (duckdb.InterruptException, RuntimeError) as error:
            if "interrupted" not in str(error):
                raise
            raise KeyboardInterrupt from error  # what it was, before it passed through DuckDB
        except duckdb.OutOfMemoryException as error:
            raise QueryFailed(
                f"{str(error).splitlines()[0]}: it needs more memory, and could not spill; give a "
                f"higher --memory or fewer --threads, or ask for less."
            ) from error
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise QueryFailed(self._message(error, lines_above)) from error

    def _message(self, error: BaseException, lines_above: int) -> str:
        text = _LINE.sub(lambda found: f"LINE {int(found[1]) - lines_above}:", str(error)).strip()
        missing = _MISSING.search(text)
        if missing is None:
            return text
        name = missing[2].strip('"').lower()
        views = [row[0] for row in self._connection.execute("SHOW TABLES").fetchall()]
        known = list(_MACROS) if "Function" in missing[1] else views
        close = difflib.get_close_matches(name, known, 1)
        hint = f" Did you mean {close[0]}?" if close else f" There are {', '.join(known)}."
        what = "table or view" if known is views else "function"
        where = text[text.find("LINE ") :] if "LINE " in text else ""
        return f"there is no {what} {missing[2]}.{hint}\n{where}".strip()


_CONFIG: Final[dict[str, Any]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
    "allow_persistent_secrets": False,
    "enable_external_file_cache": False,  # it reads small objects whole, several times over
}


def _check_range(seen: Restriction, window_seconds: int) -> None:
    ends = [ms for ms in (seen.from_ms, seen.to_ms) if ms is not None]
    for ms in ends:
        if ms % (window_seconds * 1000):
            raise QueryError(
                f"--from or --to cuts a window of {window_seconds} s, whose events would not be "
                f"counted as they are stored; give multiples of it."
            )
    if len(ends) == 2 and ends[0] >= ends[1]:
        raise QueryError("--from is not before --to, so there is nothing between them.")


@contextlib.contextmanager
def _told_as(kind: type[Exception], what: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise kind(f"{what}: {error}") from error
