"""What Beam asks of Google when it starts a job, answered on this machine.

The service itself cannot run here: this keeps the requests, and lists the jobs that it was told of.
Storage is a server of its own, :class:`adtally.runners.local.gcs_server.GcsServer`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ACCOUNT = "launcher@my-project.iam.gserviceaccount.com"


@dataclass
class DataflowService:
    """Jobs that run, and what was asked.

    Attributes:
        running: names and ids of jobs that :meth:`url`'s ``jobs`` lists.
        submitted: bodies of requests to create a job.
        asked: method and path of all requests.
    """

    running: dict[str, str] = field(default_factory=dict)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.asked.append(f"GET {self.path}")
                state = "JOB_STATE_RUNNING"
                named = service.running.items()
                self._answer(
                    {"jobs": [{"name": n, "id": i, "currentState": state} for n, i in named]}
                )

            def do_POST(self) -> None:
                service.asked.append(f"POST {self.path}")
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/token":
                    self._answer({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})
                    return
                job = json.loads(body)
                service.submitted.append(job)
                again = {"name": job["name"], "clientRequestId": job["clientRequestId"]}
                self._answer({"id": "2026-03-01_00_00_00-1", **again})

            def _answer(self, content: dict[str, Any]) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Beam goes over HTTP, and does without some of its checks, where it reads "localhost"."""
        return f"http://localhost:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def write_credentials(self, path: Path) -> None:
        """Credentials of a service account whose tokens come from here."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        text = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
        content = {
            "type": "service_account",
            "project_id": "my-project",
            "private_key_id": "1",
            "private_key": text,
            "client_email": ACCOUNT,
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(content))
