"""Flink's jars and plugins, Beam's job server, and the configuration that all clusters share.

Flink comes from PyPI (``apache-flink-libraries`` holds a distribution's jars), S3 for checkpoints
and Beam's job server from Maven.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Final

from adtally.runners.local.service import (
    ServiceFailed,
    appearing,
    cache_folder,
    call,
    copy_jars,
    require,
)

FLINK_VERSION: Final = "1.19.3"
JOB_SERVER_VERSION: Final = "2.62.0"
_RESOURCES: Final = Path(__file__).parent / "flink"
OPENED: Final = (
    "java.base/java.lang",
    "java.base/java.net",
    "java.base/java.io",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/java.util.concurrent.locks",
    "java.base/java.text",
    "java.base/java.time",
    "java.base/sun.net.util",
    "java.base/sun.nio.ch",
    "java.base/java.lang.reflect",
    "java.base/java.lang.invoke",
)
"""What Flink and Kryo reach into, which Java 17 closes."""


SHARED_SETTINGS: Final = Path(__file__).parents[1] / "deploy" / "flink" / "config.yaml"


def shared_settings() -> dict[str, str]:
    """Flink's configuration that every cluster has, by key.

    Raises:
        ServiceFailed: a line is no ``key: value``, which Flink's parsers would read differently.
    """
    settings: dict[str, str] = {}
    for line in SHARED_SETTINGS.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        key, separator, value = line.partition(": ")
        if not separator or key != key.strip() or not value.strip() or key in settings:
            raise ServiceFailed(
                f"{SHARED_SETTINGS} has {line!r}: Flink would pass over it, or take another value; "
                f"write each key once, as 'key: value'."
            )
        settings[key] = value.strip()
    return settings


def job_settings(settings: dict[str, str]) -> dict[str, str]:
    """Those that a cluster takes from each job, so from the job server that submits it.

    The job server must not have the others: a job's folder for checkpoints, for one, would win.
    """
    return {key: value for key, value in settings.items() if key.startswith("execution.")}


def write_settings(folder: Path, settings: dict[str, str]) -> None:
    """Write a folder's configuration as Flink reads it."""
    text = "".join(f"{key}: {value}\n" for key, value in settings.items())
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def install_flink() -> Path:
    """Fetch Flink's jars, once; returns the folder with them, and with ``plugins/``.

    Raises:
        MissingSystemPart: without Java or Maven.
        ServiceFailed: pip or Maven fail.
    """
    target = cache_folder() / f"flink-{FLINK_VERSION}-with-plugins"
    if not target.exists():
        require(("java", "mvn"), "Flink on this machine", "openjdk-17-jdk-headless maven")
        with appearing(target) as made, tempfile.TemporaryDirectory() as scratch:
            package = f"apache-flink-libraries=={FLINK_VERSION}"
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            call([*pip, "--no-binary", ":all:", "--dest", scratch, package])
            (archive,) = Path(scratch).glob("*.tar.gz")
            _unpack(archive, made)
            plugin = made / "plugins" / "s3-fs-hadoop"
            copy_jars(_RESOURCES / "s3.xml", plugin, f"flink.version={FLINK_VERSION}")
    return target


def _unpack(archive: Path, folder: Path) -> None:
    """Jars of ``lib/`` into the folder, and those of plugins that we use below it."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path.suffix != ".jar":
                continue
            if path.parts[1:3] == ("deps", "lib"):
                target = folder / path.name
            elif path.parts[1:4] == ("deps", "plugins", "metrics-prometheus"):
                target = folder / "plugins" / "metrics-prometheus" / path.name
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None
            with source, target.open("wb") as jar:
                shutil.copyfileobj(source, jar)


def install_job_server() -> Path:
    """Fetch the jars of Beam's job server for Flink, once; returns the folder with them.

    Raises:
        MissingSystemPart: without Java or Maven.
        ServiceFailed: Maven fails.
    """
    target = cache_folder() / f"flink-job-server-{JOB_SERVER_VERSION}"
    if not target.exists():
        require(("java", "mvn"), "Beam's job server", "openjdk-17-jdk-headless maven")
        with appearing(target) as made:
            copy_jars(_RESOURCES / "pom.xml", made, f"beam.version={JOB_SERVER_VERSION}")
    return target


def java(heap_mb: int, jars: Path, *options: str) -> list[str]:
    """A command that runs a main class of some jars, opened for Flink, with our logging."""
    opened = [f"--add-opens={name}=ALL-UNNAMED" for name in OPENED]
    logging = f"-Dlog4j.configurationFile={_RESOURCES / 'log4j.properties'}"
    return ["java", f"-Xmx{heap_mb}m", *opened, logging, "-cp", f"{jars}/*", *options]


def plugins() -> dict[str, str]:
    """Variables that have a Flink process load the plugins."""
    return {"FLINK_PLUGINS_DIR": str(install_flink() / "plugins")}
