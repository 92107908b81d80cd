"""Backfill from and to Cloud Storage, on an emulator, beside the same on disk, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as google_storage

from adtally.runners.local.gcs_server import BUCKET, GcsServer
from tests.dataflow_service import DataflowService
from tests.integration.test_object_storage import HOUR, rows, run
from tests.nodes import started
from tests.runners.test_dataflow_launch import Launcher


def client_of(server: GcsServer) -> google_storage.Client:
    return google_storage.Client(
        "my-project", AnonymousCredentials(), client_options={"api_endpoint": server.url}
    )


def copied(client: google_storage.Client, prefix: str, folder: Path) -> Path:
    """The objects below a prefix, as files."""
    for blob in client.list_blobs(BUCKET, prefix=f"{prefix}/"):
        path = folder / blob.name
        path.parent.mkdir(parents=True, exist_ok=True)
        blob.download_to_filename(str(path))
    return folder / prefix


@pytest.mark.slow
def test_cloud_storage_holds_what_a_disk_would(tmp_path: Path) -> None:
    made, local = tmp_path / "made", tmp_path / "local"
    run("generate", "--events", "1500", "--seed", "5", "--hours", "1", "--output", str(made))
    server, service = started(GcsServer()), DataflowService()
    try:
        client, launcher = client_of(server), Launcher(server, service, tmp_path)
        for path in (made / "logs").rglob("*"):
            if path.is_file():
                name = f"in/{path.relative_to(made / 'logs')}"
                client.bucket(BUCKET).blob(name).upload_from_filename(str(path))

        def there(*arguments: str) -> None:
            done = launcher.run(["-m", "adtally.pipelines", "backfill", *arguments])
            assert done.returncode == 0, done.stderr

        out = f"gs://{BUCKET}/a"
        run("backfill", "--input", str(made / "logs"), "--output", str(local))
        there("--input", f"gs://{BUCKET}/in/", "--output", out)
        assert rows(copied(client, "a", tmp_path / "first")) == rows(local)

        run("backfill", "--input", str(local / "events"), "--output", str(local), *HOUR)
        there("--input", f"{out}/events", "--output", out, *HOUR)
        after = rows(copied(client, "a", tmp_path / "second"))
        assert after == rows(local)
        assert after["summaries"]
        assert not [one.name for one in client.list_blobs(BUCKET) if one.name.endswith(".tmp")]
    finally:
        server.stop()
        service.stop()
