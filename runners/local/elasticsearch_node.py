"""A real Elasticsearch node on this machine, from its own jars; no container, no download page.

The node has indices, templates, bulk, external versions, routing and searches. It lacks what is
not published as jars: ``GET /``, security, scripts, delete-by-query, data streams and ILM.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Final

from adtally.runners.local.service import (
    MissingSystemPart,
    Service,
    answers,
    appearing,
    cache_folder,
    call,
    copy_jars,
    free_port,
    require,
)

VERSION: Final = "8.19.0"
JAVA: Final = 17
_PURPOSE: Final = f"Elasticsearch on this machine (JDK {JAVA} or newer)"
_DEBIAN: Final = "openjdk-17-jdk-headless maven"
_RESOURCES: Final = Path(__file__).parent / "elasticsearch"


def require_java() -> None:
    """Check that a JDK and Maven are on the PATH.

    Raises:
        MissingSystemPart: naming what to install.
    """
    require(("java", "javac", "mvn"), _PURPOSE, _DEBIAN)
    words = subprocess.run(["javac", "-version"], capture_output=True, text=True, check=True)
    version = (words.stdout or words.stderr).split()[-1]
    if int(version.split(".")[0]) < JAVA:
        raise MissingSystemPart(
            f"{_PURPOSE} needs a newer one than javac {version}. "
            f"On Debian: apt-get install {_DEBIAN}"
        )


def install(version: str = VERSION) -> Path:
    """Fetch the jars and compile the starter, once; returns the folder.

    Safe to repeat and to run twice at a time. The folder's name has the version and a digest of
    the files beside this module, so a changed starter is compiled.

    Raises:
        MissingSystemPart: without Java or Maven.
        ServiceFailed: Maven or the compiler fail, with the end of what they said.
    """
    digest = hashlib.sha256()
    for resource in sorted(_RESOURCES.iterdir()):
        if resource.is_file():
            digest.update(resource.read_bytes())
    target = cache_folder() / f"elasticsearch-{version}-{digest.hexdigest()[:8]}"
    if target.exists():
        return target
    require_java()
    with appearing(target) as folder:
        wanted = f"elasticsearch.version={version}"
        copy_jars(_RESOURCES / "server.xml", folder / "lib", wanted)
        module = folder / "modules" / "transport-netty4"
        copy_jars(_RESOURCES / "transport.xml", module, wanted)
        _keep_module_jars(module)
        (folder / "config").mkdir()
        shutil.copy(_RESOURCES / "log4j2.properties", folder / "config")
        source = str(_RESOURCES / "AdtallyNode.java")
        call(["javac", "-cp", f"{folder}/lib/*", "-d", str(folder / "classes"), source])
    return target


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


class ElasticsearchNode(Service):
    """One node; a context manager that starts and stops it.

    A node starts in 4 to 6 s; a machine busy with other things has taken 30.

    Args:
        data: folder for data and log; a temporary one where not given, removed at the end.
        port: of HTTP; a free one where not given. It stays the same over restarts.
        heap_mb: of the JVM.
        settings: further settings of Elasticsearch.
        detached: the node outlives the process that started it.
    """

    name = "elasticsearch"

    def __init__(
        self,
        data: Path | None = None,
        port: int | None = None,
        heap_mb: int = 512,
        settings: dict[str, str] | None = None,
        *,
        detached: bool = False,
    ) -> None:
        super().__init__(data, port, detached=detached)
        self._heap_mb = heap_mb
        self._settings = settings or {}

    def command(self) -> list[str]:
        installed = install()
        require(("java",), _PURPOSE, _DEBIAN)
        home = self.data / "home"
        for name in ("config", "modules"):
            shutil.copytree(installed / name, home / name, dirs_exist_ok=True)
        (home / "plugins").mkdir(exist_ok=True)
        settings = {
            "http.port": str(self.port),
            "transport.port": str(free_port()),
            "path.data": str(self.data / "data"),
            "path.logs": str(self.data / "logs"),
            # A laptop's disk is often over 90% full; that must not stop a demo.
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            **self._settings,
        }
        return [
            "java",
            f"-Xms{self._heap_mb}m",
            f"-Xmx{self._heap_mb}m",
            "-Dlog4j2.disable.jmx=true",
            "-cp",
            f"{installed}/lib/*:{installed}/classes",
            "AdtallyNode",
            str(home),
            *(f"{key}={value}" for key, value in settings.items()),
        ]

    def healthy(self) -> bool:
        return answers(f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s")
