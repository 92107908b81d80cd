"""A real Elasticsearch node on this machine, from its own jars; no container, no download page.

``python -m adtally.runners.local.elasticsearch_node install`` fetches the jars;
``... run --port 9200 --data DIR`` runs a node until it is interrupted.

The node has indices, templates, bulk, external versions, routing and searches. It lacks what is
not published as jars: ``GET /``, security, scripts, delete-by-query, data streams and ILM.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Final

VERSION: Final = "8.19.0"
START_SECONDS: Final = 90
"""A node starts in 4 to 6 s; a machine busy with other things has taken 30."""
STOP_SECONDS: Final = 30
POLL_SECONDS: Final = 0.2
JAVA: Final = 17
_RESOURCES = Path(__file__).parent / "elasticsearch"


class MissingSystemPart(RuntimeError):
    """Java or Maven is not there; the message says what to install."""


class NodeFailed(RuntimeError):
    """The node did not start, or died; the message has the end of its log."""


def cache_folder() -> Path:
    """Where jars are kept between runs: ``ADTALLY_CACHE``, or ``~/.cache/adtally``."""
    return Path(os.environ.get("ADTALLY_CACHE") or Path.home() / ".cache" / "adtally")


def require_java() -> None:
    """Check that a JDK and Maven are on the PATH.

    Raises:
        MissingSystemPart: naming what to install.
    """
    missing = [name for name in ("java", "javac", "mvn") if shutil.which(name) is None]
    if not missing:
        words = subprocess.run(["javac", "-version"], capture_output=True, text=True, check=True)
        version = (words.stdout or words.stderr).split()[-1]
        if int(version.split(".")[0]) < JAVA:
            missing = [f"javac {version} is older than {JAVA}"]
    if missing:
        raise MissingSystemPart(
            f"Elasticsearch on this machine needs a JDK of at least {JAVA} and Maven; missing: "
            f"{', '.join(missing)}. On Debian: apt-get install openjdk-17-jdk-headless maven"
        )


def install(version: str = VERSION) -> Path:
    """Fetch the jars and compile the starter, once; returns the folder.

    Safe to repeat and to run twice at a time: the folder appears whole, by rename. Its name has
    the version and a digest of the files beside this module, so a changed starter is compiled.

    Raises:
        MissingSystemPart: without Java or Maven.
        NodeFailed: Maven or the compiler fail, with the end of what they said.
    """
    digest = hashlib.sha256()
    for resource in sorted(_RESOURCES.iterdir()):
        if resource.is_file():
            digest.update(resource.read_bytes())
    target = cache_folder() / f"elasticsearch-{version}-{digest.hexdigest()[:8]}"
    if target.exists():
        return target
    require_java()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".elasticsearch-") as scratch:
        folder = Path(scratch, "node")
        _fetch("server", folder / "lib", version)
        module = folder / "modules" / "transport-netty4"
        _fetch("transport", module, version)
        _keep_module_jars(module)
        (folder / "config").mkdir()
        shutil.copy(_RESOURCES / "log4j2.properties", folder / "config")
        source = str(_RESOURCES / "AdtallyNode.java")
        classpath = f"{folder}/lib/*"
        _call(["javac", "-cp", classpath, "-d", str(folder / "classes"), source])
        try:
            folder.rename(target)
        except OSError:
            if not target.exists():  # otherwise another run was first
                raise
    return target


def _fetch(what: str, folder: Path, version: str) -> None:
    _call(
        [
            "mvn",
            "--batch-mode",
            "--quiet",
            "--file",
            str(_RESOURCES / f"{what}.xml"),
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={folder}",
            f"-Delasticsearch.version={version}",
        ]
    )


def _keep_module_jars(module: Path) -> None:
    """Of the module's jars keep its own and Netty's: the server brings the rest."""
    for jar in module.glob("*.jar"):
        if not jar.name.startswith(("netty-", "transport-netty4-")):
            jar.unlink()
    own = next(module.glob("transport-netty4-*.jar"))
    name = "META-INF/es-plugins/transport-netty4/plugin-descriptor.properties"
    with zipfile.ZipFile(own) as archive:
        lines = archive.read(name).decode("utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("modulename")]
    (module / "plugin-descriptor.properties").write_text("\n".join(kept), encoding="utf-8")


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        end = (done.stdout + done.stderr)[-2_000:]
        raise NodeFailed(f"{' '.join(command)} ended with {done.returncode}:\n{end}")


def free_port() -> int:
    """A TCP port on the loopback interface that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _require_free(port: int) -> None:
    """Otherwise whoever listens there would be taken for the node."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the node does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise NodeFailed(
                f"port {port} on 127.0.0.1 cannot be used ({error.strerror}); end what listens "
                f"there, or give another port."
            ) from error


class ElasticsearchNode:
    """One node; a context manager that starts and stops it.

    Args:
        data: folder for data and log; a temporary one where not given, removed at the end.
        port: of HTTP; a free one where not given. It stays the same over restarts.
        heap_mb: of the JVM.
        settings: further settings of Elasticsearch.
    """

    def __init__(
        self,
        data: Path | None = None,
        port: int | None = None,
        heap_mb: int = 512,
        settings: dict[str, str] | None = None,
    ) -> None:
        self._temporary = data is None
        self.data = data or Path(tempfile.mkdtemp(prefix="adtally-elasticsearch-"))
        self.port = port or free_port()
        self._heap_mb = heap_mb
        self._settings = settings or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._home: Path | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.data / "node.log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the node and wait until it answers.

        The node ends with this process, however that ends.

        Raises:
            MissingSystemPart: without Java or Maven.
            NodeFailed: with the end of the node's log; or something listens on the port already.
        """
        if self.running:
            return
        installed = install()
        if shutil.which("java") is None:
            require_java()
        _require_free(self.port)
        self.data.mkdir(parents=True, exist_ok=True)
        settings = {
            "http.port": str(self.port),
            "transport.port": str(free_port()),
            "path.data": str(self.data / "data"),
            "path.logs": str(self.data / "logs"),
            # A laptop's disk is often over 90% full; that must not stop a demo.
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            **self._settings,
        }
        self._home = Path(tempfile.mkdtemp(prefix="adtally-elasticsearch-home-"))
        for name in ("config", "modules"):
            shutil.copytree(installed / name, self._home / name)
        (self._home / "plugins").mkdir()
        command = [
            "java",
            f"-Xms{self._heap_mb}m",
            f"-Xmx{self._heap_mb}m",
            "-Dlog4j2.disable.jmx=true",
            "-cp",
            f"{installed}/lib/*:{installed}/classes",
            "AdtallyNode",
            str(self._home),
            *(f"{key}={value}" for key, value in settings.items()),
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.PIPE, start_new_session=True
            )
        try:
            self._wait_until_healthy()
        except BaseException:  # Ctrl-C too must not leave a node behind
            self.kill()
            raise

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.running:
                raise NodeFailed(f"Elasticsearch ended while starting:\n{self._end_of_log()}")
            health = f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s"
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(health, timeout=5).close()
                return
            time.sleep(POLL_SECONDS)
        raise NodeFailed(f"no answer after {START_SECONDS} s:\n{self._end_of_log()}")

    def _end_of_log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-2_000:]

    def stop(self) -> None:
        """End the node as an operator would, and remove what was temporary. Safe to repeat."""
        self._signal(signal.SIGTERM)
        if self._temporary:
            shutil.rmtree(self.data, ignore_errors=True)

    def kill(self) -> None:
        """End the node as a power cut would; its data stays for another :meth:`start`."""
        self._signal(signal.SIGKILL)

    def restart(self) -> None:
        """End the node as an operator would and start it again, on the same port and data."""
        self._signal(signal.SIGTERM)
        self.start()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process = None
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    def __enter__(self) -> ElasticsearchNode:
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


def main() -> None:
    """Fetch the jars, or run a node in the foreground."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="fetch the jars")
    run = commands.add_parser("run", help="run a node until interrupted")
    run.add_argument("--port", type=int, default=9200)
    run.add_argument("--data", type=Path, default=Path("elasticsearch-data"))
    arguments = parser.parse_args()
    try:
        if arguments.command == "install":
            print(install())  # noqa: T201
            return
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with ElasticsearchNode(arguments.data.absolute(), arguments.port) as node:
            print(f"{node.url} is up; data and log in {node.data}; Ctrl-C ends it.")  # noqa: T201
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    except (MissingSystemPart, NodeFailed) as error:
        sys.exit(f"adtally: {error}")


if __name__ == "__main__":
    main()
