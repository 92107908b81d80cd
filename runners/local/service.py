"""What all servers of the local stack share: a process of their own, a port, a health check."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

import psutil

POLL_SECONDS: Final = 0.1
LOG_TAIL_CHARACTERS: Final = 2_000
GUARD: Final = 'read _; kill -s TERM -- "-$1"; sleep 5; kill -s KILL -- "-$1"'
"""Run by a shell beside each server: its input ends when the process that started it does."""


class MissingSystemPart(RuntimeError):
    """A program that a server needs is not there; the message says what to install."""


class ServiceFailed(RuntimeError):
    """A server did not start, or died; the message has the end of its log."""


def cache_folder() -> Path:
    """Where downloads are kept between runs: ``ADTALLY_CACHE``, or ``~/.cache/adtally``."""
    return Path(os.environ.get("ADTALLY_CACHE") or Path.home() / ".cache" / "adtally")


@contextlib.contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A scratch path beside ``target`` that becomes it, whole, when the block ends well.

    Where another process was first, its result stays and ours is dropped.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        made = Path(scratch, "made")
        yield made
        try:
            made.rename(target)
        except OSError:
            if not target.exists():
                raise


def call(command: Sequence[str], *, cwd: Path | None = None) -> None:
    """Run a command to its end, quietly.

    Raises:
        ServiceFailed: it fails; with the end of what it said.
    """
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        end = (done.stdout + done.stderr)[-LOG_TAIL_CHARACTERS:]
        raise ServiceFailed(f"{' '.join(command)} ended with {done.returncode}:\n{end}")


def copy_jars(pom: Path, folder: Path, *properties: str) -> None:
    """Have Maven copy the dependencies that a ``pom.xml`` names.

    Args:
        pom: names the dependencies.
        folder: receives the jars.
        properties: of the pom, as ``name=value``.

    Raises:
        ServiceFailed: Maven fails.
    """
    command = [
        "mvn",
        "--batch-mode",
        "--quiet",
        "--file",
        str(pom),
        "dependency:copy-dependencies",
        "-DincludeScope=runtime",
        f"-DoutputDirectory={folder}",
        *(f"-D{given}" for given in properties),
    ]
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / ".maven.lock").open("w") as lock:  # its repository is for one process
        fcntl.flock(lock, fcntl.LOCK_EX)
        call(command)


def require(programs: Sequence[str], whatever_for: str, debian: str) -> None:
    """Check that programs are on the PATH.

    Args:
        programs: their names.
        whatever_for: what needs them.
        debian: the packages that bring them there.

    Raises:
        MissingSystemPart: naming what is missing and how to install it.
    """
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        raise MissingSystemPart(
            f"{whatever_for} needs {', '.join(missing)} on the PATH. "
            f"On Debian: apt-get install {debian}"
        )


def free_port() -> int:
    """A TCP port on the loopback interface that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def require_free(port: int) -> None:
    """Check a port; otherwise whoever listens there would be taken for the server.

    Raises:
        ServiceFailed: something listens on it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServiceFailed(
                f"port {port} on 127.0.0.1 cannot be used ({error.strerror}); end what listens "
                f"there, or give another port."
            ) from error


def answers(url: str, timeout_seconds: float = 5) -> bool:
    """Whether a GET of the URL is answered with a status below 400."""
    try:
        urllib.request.urlopen(url, timeout=timeout_seconds).close()
    except (OSError, urllib.error.URLError, ValueError):
        return False
    return True


def listens(port: int) -> bool:
    """Whether a TCP port on the loopback interface takes connections."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Service:
    """One server in a process group of its own; a context manager that starts and stops it.

    Subclasses say how it is installed, started and asked for its health.

    Args:
        data: folder for data and log; a temporary one where not given, removed by :meth:`stop`.
        port: on 127.0.0.1; a free one where not given. It stays the same over restarts.
        detached: the server outlives the process that started it. Otherwise it ends with it,
            however that ends.
    """

    name: ClassVar[str]
    start_seconds: ClassVar[float] = 90
    stop_seconds: ClassVar[float] = 30

    def __init__(
        self, data: Path | None = None, port: int | None = None, *, detached: bool = False
    ) -> None:
        self._temporary = data is None
        self.data = data or Path(tempfile.mkdtemp(prefix=f"adtally-{self.name}-"))
        self.port = port or free_port()
        self.detached = detached
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Install what is missing, prepare the data folder, and say what to run."""
        raise NotImplementedError

    def healthy(self) -> bool:
        """Whether the server answers now."""
        raise NotImplementedError

    @property
    def asked(self) -> bool:
        """Whether the server listens on its port."""
        return self.port in self.ports()

    def environment(self) -> dict[str, str]:
        """Variables of the server, on top of those of this process."""
        return {}

    def folder(self) -> Path | None:
        """The working directory of the server."""
        return None

    def ports(self) -> list[int]:
        """Every port that must be free for a start."""
        return [self.port]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What the server says, over all starts."""
        return self.data / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Process id, also the id of the process group; 0 while it does not run."""
        return self._process.pid if self._process is not None and self.running else 0

    @property
    def running(self) -> bool:
        """Whether the process is there; it may be paused."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers. Safe to repeat.

        Raises:
            MissingSystemPart: a program that it needs is missing.
            ServiceFailed: with the end of its log; or something listens on its port already.
        """
        self.launch()
        try:
            self.wait()
        except BaseException:  # Ctrl-C too must not leave a server behind
            self.kill()
            raise

    def launch(self) -> None:
        """Start the server without waiting for an answer; see :meth:`wait`."""
        if self.running:
            return
        self._forget()
        command = self.command()
        for port in self.ports():
            require_free(port)
        self.data.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder(),
                env={**os.environ, **self.environment()},
                start_new_session=True,
            )
        if self.detached:  # nobody may be there to ask how it ended
            threading.Thread(target=self._process.wait, daemon=True).start()
        else:
            self._guard = subprocess.Popen(
                ["sh", "-c", GUARD, "guard", str(self._process.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until the server answers.

        Raises:
            ServiceFailed: it ended, or gives no answer in ``start_seconds``.
        """
        deadline = time.monotonic() + self.start_seconds
        while not self.healthy():
            if not self.running:
                raise ServiceFailed(f"{self.name} ended while starting:\n{self.end_of_log()}")
            if time.monotonic() > deadline:
                raise ServiceFailed(
                    f"{self.name}: no answer after {self.start_seconds:.0f} s:\n{self.end_of_log()}"
                )
            time.sleep(POLL_SECONDS)

    def end_of_log(self) -> str:
        if not self.log.exists():
            return ""
        return self.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARACTERS:]

    def stop(self) -> None:
        """End the server as an operator would, and remove what was temporary. Safe to repeat."""
        self.end()
        if self._temporary:
            shutil.rmtree(self.data, ignore_errors=True)

    def end(self) -> None:
        """End the server as an operator would; its data stays for another :meth:`start`."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a power cut would; its data stays for another :meth:`start`."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End the server as an operator would and start it again, on the same port and data."""
        self.end()
        self.start()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open and nothing answers.

        Threads of a process stop one after the other, so it is waited for.
        """
        self._signal(signal.SIGSTOP)
        stopped = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
        while self.running and psutil.Process(self.pid).status() not in stopped:
            time.sleep(POLL_SECONDS / 10)

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._signal(number)
            self._signal(signal.SIGCONT)  # a paused one cannot end
            try:
                self._process.wait(self.stop_seconds)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()
            # What the server started itself must not stay either.
            self._signal(signal.SIGKILL)
        self._forget()

    def _forget(self) -> None:
        if self._guard is not None:  # first, so that it cannot hit a process id used again
            self._guard.kill()
            self._guard.wait()
            if self._guard.stdin is not None:
                self._guard.stdin.close()
            self._guard = None
        if self._process is not None:
            self._process.poll()
            self._process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
