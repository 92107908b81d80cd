"""What a user would see of a fault: restarts of the job, and what logs say."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.stage import Stage

MOST = 3
_TOLD = re.compile(r"(Elasticsearch at .*|kinesis waits: .*|kinesis data loss: .*)")
_ERROR = re.compile(
    r"^(?:Caused by: )?(?:[\w.]+\.)?([A-Z]\w*(?:Error|Exception|Unavailable|Refused)): (.+)$"
)
_VARYING = re.compile(r"\b\d[\d.,]*\b|0x[0-9a-f]+|/[\w./=-]+|shardId-\d+|\b[0-9a-f]{16,}\b")
_PLAIN = ("RuntimeException", "JobException", "ExecutionException", "CompletionException")


class Notes:
    """Begun before a fault; tells what was written since then."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._from = {path: path.stat().st_size for path in self._logs()}

    def _logs(self) -> list[Path]:
        stage = self._stage
        if stage.setting.runner != "flink":
            return [stage.folder / "stream.log"]
        servers = [stage.flink.manager, *stage.flink.task_managers, stage.flink.pool]
        return [server.log for server in servers if server.log.exists()]

    def restarts(self) -> int:
        """How often Flink restarted the job since then."""
        stage = self._stage
        if stage.setting.runner != "flink":
            return 0
        return self._since(stage.flink.manager.log).count(" to RESTARTING")

    def _since(self, path: Path) -> str:
        with path.open("rb") as file:
            file.seek(self._from.get(path, 0))
            return file.read().decode(errors="replace")

    def seen(self) -> list[str]:
        """The most frequent messages since then, without what differs from one to the next."""
        found: Counter[str] = Counter()
        shown: dict[str, str] = {}
        for path in self._logs():
            for line in self._since(path).splitlines():
                for message in _messages(line):
                    kind = _VARYING.sub("N", message)[:80]
                    found[kind] += 1
                    shown.setdefault(kind, message[:200])
        return [f"{shown[kind]} ({times} times)" for kind, times in found.most_common(MOST)]


def _messages(line: str) -> list[str]:
    told = _TOLD.search(line)
    if told:
        return [told[1]]
    error = _ERROR.match(line.strip())
    if error and error[1] not in _PLAIN:
        return [f"{error[1]}: {error[2]}"]
    return []
