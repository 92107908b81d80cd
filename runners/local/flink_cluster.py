"""A Flink cluster on this machine: JobManager, TaskManagers, Beam's job server, an SDK worker pool.

Its configuration is that of every deployment, but for addresses, folders and memory. The job server
is of an older Beam than the SDK; they understand each other.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

from adtally.runners.local.flink_parts import (
    install_flink,
    install_job_server,
    java,
    job_settings,
    plugins,
    shared_settings,
    write_settings,
)
from adtally.runners.local.service import (
    LOG_TAIL_CHARACTERS,
    POLL_SECONDS,
    Service,
    ServiceFailed,
    answers,
    free_port,
    listens,
)


class JobManager(Service):
    """Flink's JobManager; ``port`` is that of its REST interface."""

    name = "jobmanager"

    def __init__(
        self,
        data: Path | None = None,
        port: int | None = None,
        *,
        slots: int = 2,
        settings: dict[str, str] | None = None,
        detached: bool = False,
    ) -> None:
        super().__init__(data, port, detached=detached)
        self.rpc_port = free_port()
        self._metrics_port = min(free_port(), 65_526)  # and nine more, for the TaskManagers
        self._slots = slots
        self._settings = settings or {}

    def settings(self) -> dict[str, str]:
        """The configuration, by key: the shared one, where it runs, and what was given."""
        here = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": str(self.rpc_port),
            "jobmanager.bind-host": "127.0.0.1",
            "jobmanager.memory.process.size": "1024m",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": str(self.port),
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": str(self._slots),
            # Started without Flink's shell scripts, it has to be told its memory in parts.
            "taskmanager.cpu.cores": "1.0",
            "taskmanager.memory.task.heap.size": "768m",
            "taskmanager.memory.task.off-heap.size": "0m",
            "taskmanager.memory.network.min": "64m",
            "taskmanager.memory.network.max": "64m",
            "taskmanager.memory.managed.size": "256m",
            "taskmanager.memory.framework.heap.size": "128m",
            "taskmanager.memory.framework.off-heap.size": "128m",
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "128m",
            "taskmanager.memory.jvm-overhead.max": "128m",
            "metrics.reporter.prom.port": f"{self._metrics_port}-{self._metrics_port + 9}",
            "io.tmp.dirs": str(self.data),
            "state.checkpoints.dir": (self.data / "checkpoints").absolute().as_uri(),
            "state.savepoints.dir": (self.data / "savepoints").absolute().as_uri(),
        }
        shared = shared_settings()
        del shared["taskmanager.memory.process.size"], shared["taskmanager.memory.managed.fraction"]
        return {**shared, **here, **self._settings}

    def configuration(self) -> Path:
        """Write the cluster's configuration; returns its folder."""
        folder = self.data / "conf"
        folder.mkdir(parents=True, exist_ok=True)
        write_settings(folder, self.settings())
        return folder

    def command(self) -> list[str]:
        entry = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        return [*java(512, install_flink(), entry), "--configDir", str(self.configuration())]

    def environment(self) -> dict[str, str]:
        return plugins()

    def ports(self) -> list[int]:
        return [self.port, self.rpc_port]

    def healthy(self) -> bool:
        return answers(f"{self.url}/overview")

    def get(self, path: str) -> Any:
        """What the REST interface says at a path."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:
            return json.load(answer)

    def ask(self, path: str, body: dict[str, Any], method: str = "POST") -> Any:
        """Ask the REST interface for something."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


class TaskManager(Service):
    """One TaskManager of a JobManager."""

    name = "taskmanager"

    def __init__(self, manager: JobManager, data: Path, *, detached: bool = False) -> None:
        super().__init__(data, detached=detached)
        self._manager = manager

    def command(self) -> list[str]:
        entry = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        configuration = str(self._manager.configuration())
        return [*java(1024, install_flink(), entry), "--configDir", configuration]

    def environment(self) -> dict[str, str]:
        return plugins()

    def ports(self) -> list[int]:
        return []

    def healthy(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            found = self._manager.get("/taskmanagers")["taskmanagers"]
            return any(self.name_of(item) for item in found)
        return False

    def name_of(self, item: dict[str, Any]) -> bool:
        """Whether an entry of the JobManager's list has free or taken slots, so is alive."""
        return bool(item["slotsNumber"])


class JobServer(Service):
    """Beam's job server, which translates pipelines for a JobManager; ``port`` takes jobs."""

    name = "jobserver"

    def __init__(
        self,
        manager: JobManager,
        data: Path | None = None,
        port: int | None = None,
        *,
        detached: bool = False,
    ) -> None:
        super().__init__(data, port, detached=detached)
        self._manager = manager
        self.artifact_port = free_port()
        self._expansion_port = free_port()

    @property
    def endpoint(self) -> str:
        """HOST:PORT for ``--job_endpoint``."""
        return f"127.0.0.1:{self.port}"

    def configuration(self) -> Path:
        """Write what jobs bring along; returns its folder. All else is the cluster's to say."""
        folder = self.data / "conf"
        folder.mkdir(parents=True, exist_ok=True)
        write_settings(folder, job_settings(self._manager.settings()))
        return folder

    def command(self) -> list[str]:
        return [
            *java(512, install_job_server(), "org.apache.beam.runners.flink.FlinkJobServerDriver"),
            f"--flink-master=127.0.0.1:{self._manager.port}",
            f"--flink-conf-dir={self.configuration()}",
            "--job-host=127.0.0.1",
            f"--job-port={self.port}",
            f"--artifact-port={self.artifact_port}",
            f"--expansion-port={self._expansion_port}",
            f"--artifacts-dir={self.data / 'artifacts'}",
        ]

    def ports(self) -> list[int]:
        return [self.port, self.artifact_port, self._expansion_port]

    def healthy(self) -> bool:
        return listens(self.port) and listens(self.artifact_port)


class WorkerPool(Service):
    """Starts SDK workers for TaskManagers; ``port`` takes their requests.

    After a job was cancelled an old pool has been seen to leave the next job idle: use one for each
    job, or restart it in between.
    """

    name = "workerpool"

    @property
    def endpoint(self) -> str:
        """HOST:PORT for ``--environment_config``."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        module = "apache_beam.runners.worker.worker_pool_main"
        return [sys.executable, "-m", module, f"--service_port={self.port}"]

    def environment(self) -> dict[str, str]:
        # The pool starts workers as "python": it has to be this one.
        return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}

    def healthy(self) -> bool:
        return listens(self.port)

    def kill_workers(self) -> int:
        """``kill -9`` of every SDK worker, not of the pool; returns how many."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/children")
        children = [child for thread in threads for child in thread.read_text().split()]
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        return len(children)


class FlinkCluster:
    """All that a job on Flink needs; a context manager.

    Args:
        data: folder for all of it; a temporary one where not given, removed at the end.
        port: of Flink's REST interface and web page.
        task_managers: how many.
        slots: of each.
        settings: of Flink, on top of ours.
        detached: the servers outlive the process that started them.
    """

    def __init__(
        self,
        data: Path | None = None,
        port: int | None = None,
        *,
        task_managers: int = 1,
        slots: int = 2,
        settings: dict[str, str] | None = None,
        detached: bool = False,
    ) -> None:
        self._temporary = data is None
        self.data = data or Path(tempfile.mkdtemp(prefix="adtally-flink-"))
        self.manager = JobManager(
            self.data / "manager", port, slots=slots, settings=settings, detached=detached
        )
        self.task_managers = [
            TaskManager(self.manager, self.data / f"task-{number}", detached=detached)
            for number in range(task_managers)
        ]
        self.job_server = JobServer(self.manager, self.data / "jobs", detached=detached)
        self.pool = WorkerPool(self.data / "workers", detached=detached)

    @property
    def services(self) -> list[Service]:
        return [self.manager, *self.task_managers, self.job_server, self.pool]

    def start(self) -> None:
        """Start everything and wait until it answers. Safe to repeat."""
        try:
            for service in self.services:
                service.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything, and remove what was temporary. Safe to repeat."""
        for service in reversed(self.services):
            service.stop()
        if self._temporary:
            shutil.rmtree(self.data, ignore_errors=True)

    def arguments(self) -> list[str]:
        """Options of ``adtally stream`` for this cluster."""
        return [
            *("--runner", "FlinkRunner", "--flink-job-endpoint", self.job_server.endpoint),
            *("--flink-artifact-endpoint", f"127.0.0.1:{self.job_server.artifact_port}"),
            *("--flink-environment", self.pool.endpoint),
        ]

    def jobs(self, status: str = "RUNNING") -> list[str]:
        """Ids of the jobs in a state."""
        found = self.manager.get("/jobs")["jobs"]
        return [job["id"] for job in found if job["status"] == status]

    def cancel(self, job: str) -> None:
        """End a job as it is; its last checkpoint stays."""
        self.manager.ask(f"/jobs/{job}?mode=cancel", {}, "PATCH")
        deadline = time.monotonic() + 60
        while job not in self.jobs("CANCELED"):
            if time.monotonic() > deadline:
                raise ServiceFailed(f"{job} was not cancelled within 60 s")
            time.sleep(POLL_SECONDS)

    def checkpoints(self, job: str) -> list[str]:
        """URIs of the checkpoints of a job that are written whole, the oldest first.

        In a folder of this machine they are found without a running cluster; elsewhere it is asked.
        """
        place = self.manager.settings()["state.checkpoints.dir"]
        if place.startswith("file:"):
            whole = (self.manager.data / "checkpoints" / job).glob("chk-*/_metadata")
            found = [path.parent.absolute().as_uri() for path in whole]
        else:
            history = self.manager.get(f"/jobs/{job}/checkpoints")["history"]
            found = [one["external_path"] for one in history if one["status"] == "COMPLETED"]
        return sorted(found, key=lambda uri: int(uri.rpartition("-")[2]))

    def newest_checkpoint(self, job: str) -> str:
        """URI of the last checkpoint of a job that was written whole.

        Raises:
            ServiceFailed: there is none.
        """
        whole = self.checkpoints(job)
        if not whole:
            place = self.manager.settings()["state.checkpoints.dir"]
            raise ServiceFailed(f"no checkpoint of {job} in {place}")
        return whole[-1]

    def stop_with_savepoint(self, job: str) -> str:
        """Take a savepoint and end a job; returns the savepoint's URI.

        Never with ``drain``: Beam's operator waits in ``finish`` until a splittable source has
        ended, which a live one does not, and the job hangs.

        Raises:
            ServiceFailed: Flink could not.
        """
        asked = self.manager.ask(f"/jobs/{job}/stop", {"drain": False})["request-id"]
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            answer = self.manager.get(f"/jobs/{job}/savepoints/{asked}")
            if answer["status"]["id"] == "COMPLETED":
                operation = answer["operation"]
                if "location" in operation:
                    return str(operation["location"])
                reason = str(operation.get("failure-cause", {}).get("stack-trace"))
                raise ServiceFailed(f"no savepoint of {job}: {reason[:LOG_TAIL_CHARACTERS]}")
            time.sleep(POLL_SECONDS)
        raise ServiceFailed(f"no savepoint of {job} within 120 s")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
