"""Names of tenants, months, and requests of the security API: nothing here needs a cluster."""

from __future__ import annotations

import http.server
import inspect
import json
import re
import stat
import threading
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from elasticsearch import Elasticsearch
from elasticsearch.client import SecurityClient
from hypothesis import given
from hypothesis import strategies as st

from adtally.io import elasticsearch_retain as retention
from adtally.io import elasticsearch_security as security
from adtally.io import elasticsearch_tenants as tenants
from adtally.io.elasticsearch import ElasticsearchConfig
from adtally.pipelines.cli import cli

CONFIG = ElasticsearchConfig(("http://127.0.0.1:9",))
SECRET = "c2VjcmV0LWtleS1vZi1hLXRlbmFudA=="

INDEX_PRIVILEGES = {
    *("all", "auto_configure", "create", "create_doc", "create_index", "delete", "delete_index"),
    *("index", "maintenance", "manage", "monitor", "none", "read", "view_index_metadata", "write"),
}
"""Of those that Elastic's API has (``SecurityIndexPrivilege`` of its clients for 8.19)."""


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_two_tenants_share_a_name(one: str, other: str) -> None:
    names = [tenants.safe_name(text) for text in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    for name in names:
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) and len(name) <= 64


@pytest.mark.parametrize(
    ("advertiser", "name"),
    [("acme", "acme"), ("Acme", "acme.f7d4"), ("a.b", "a-b."), ("*", "x."), ("a" * 65, "a" * 32)],
)
def test_names_can_be_read(advertiser: str, name: str) -> None:
    assert tenants.safe_name(advertiser).startswith(name.split(".")[0])


def test_a_list_to_searches_is_no_routing() -> None:
    assert "routing" not in tenants.alias_body("a,b")
    assert tenants.alias_body("a b")["routing"] == "a b"


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("adtally-flags-2026.02", "2026-03-01"),
        ("adtally-flags-2025.12", "2026-01-01"),
        ("adtally-flags-2026.13", None),
        ("adtally-flags-2026.02-old", None),
        ("adtally-summaries-2026.02", None),
        ("adtally-flags-0000.01", None),
        ("adtally-flags-9999.12", None),
    ],
)
def test_the_end_of_a_month(name: str, end: str | None) -> None:
    found = retention.month_end(name, "adtally-flags-*")
    assert (found and found.date().isoformat()) == end


def test_ages_in_which_a_stream_still_writes_are_refused() -> None:
    retention.check_ages({"flags": 7 * 86_400})
    with pytest.raises(retention.TooYoung, match="--flags 6d"):
        retention.check_ages({"summaries": 8 * 86_400, "flags": 6 * 86_400})


def test_requests_are_what_the_client_takes() -> None:
    """The client's own signature says which arguments and cluster privileges there are."""
    put_role = inspect.signature(SecurityClient.put_role).parameters
    hints = typing.get_type_hints(inspect.unwrap(SecurityClient.put_role))
    known = set(re.findall(r"'(\w+)'", str(hints["cluster"])))
    assert "manage_index_templates" in known
    for request in security.role_requests(CONFIG).values():
        assert request.keys() <= put_role.keys()
        assert set(request["cluster"]) <= known
        (indices,) = request["indices"]
        assert indices.keys() <= {"names", "privileges", "query"}
        assert set(indices["privileges"]) <= INDEX_PRIVILEGES
        assert all(name.startswith("adtally-") for name in indices["names"])
    create = inspect.signature(SecurityClient.create_api_key).parameters
    made = security.key_request(CONFIG, "tenant", 'a "quoted", té', 86_400)
    assert made.keys() <= create.keys() and made["expiration"] == "86400s"


def test_a_tenant_sees_its_own_documents() -> None:
    requests = security.role_requests(CONFIG)
    (shared,) = requests["tenant"]["indices"]
    assert shared["privileges"] == ["read"]
    assert shared["query"] == {
        "template": {"source": {"term": {"advertiser_id": "{{_user.metadata.advertiser_id}}"}}}
    }
    made = security.key_request(CONFIG, "tenant", "acme", None)
    (own,) = made["role_descriptors"]["adtally-tenant"]["indices"]
    assert own["query"] == {"term": {"advertiser_id": "acme"}} and own["privileges"] == ["read"]
    assert made["name"] == "adtally-tenant-acme" and "expiration" not in made
    for role in ("writer", "reader", "puller", "operator"):
        assert "query" not in requests[role]["indices"][0]


def test_a_secret_is_written_once_and_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with security.new_secret(path) as write:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600  # before there is a secret
        write(SECRET)
    assert path.read_text().strip() == SECRET
    with pytest.raises(FileExistsError), security.new_secret(path):
        pytest.fail("it would be lost")
    with pytest.raises(RuntimeError), security.new_secret(tmp_path / "other"):
        raise RuntimeError("no key was made")
    assert not (tmp_path / "other").exists()
    assert SECRET not in repr(security.NewKey("id", "name", SECRET))


class _Cluster(http.server.BaseHTTPRequestHandler):
    """Answers as Elastic documents it, with the status that a test asks for; not a cluster."""

    licence: ClassVar[str] = "platinum"
    status: ClassVar[int] = 200
    seen: ClassVar[list[tuple[str, str, Any]]] = []

    def do_GET(self) -> None:
        self._answer({"license": {"status": "active", "type": self.licence}}, 200)

    def do_PUT(self) -> None:
        size = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(size)) if size else None
        self.seen.append((self.command, self.path, body))
        made = {"id": "an-id", "name": "a-name", "api_key": "x", "encoded": SECRET}
        error = {"error": {"type": "security_exception", "reason": "no"}, "status": self.status}
        good = made if "api_key" in self.path else {"role": {"created": True}}
        self._answer(good if self.status == 200 else error, self.status)

    do_POST = do_PUT

    def _answer(self, body: dict[str, Any], status: int) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("x-elastic-product", "Elasticsearch")
        self.send_header("content-type", "application/vnd.elasticsearch+json; compatible-with=8")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(_Cluster, "seen", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Cluster) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["elasticsearch", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_a_key_goes_into_a_file_and_nowhere_else(cluster: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    tenant = ("key", "--role", "tenant", "--advertiser", "acme", "--elasticsearch", cluster)
    said = run(*tenant, "--expires", "90d", "--out", str(path))
    assert path.read_text().strip() == SECRET and SECRET not in said
    (call,) = _Cluster.seen
    assert call[1] == "/_security/api_key"
    assert call[2]["expiration"] == "7776000s"
    assert SECRET in run(*tenant)
    run(*tenant, "--out", str(path), code=2)  # before another key is made
    assert len(_Cluster.seen) == 2
    run("key", "--role", "tenant", "--elasticsearch", cluster, code=2)


def test_no_key_for_a_tenant_without_the_licence(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Cluster, "licence", "basic")
    with Elasticsearch(cluster) as client:
        with pytest.raises(security.SecurityMissing, match="no key was made"):
            security.create_key(client, CONFIG, "tenant", "acme")
        assert _Cluster.seen == []
        assert "refuses every search" in security.install_roles(client, CONFIG)[-1]
        assert security.create_key(client, CONFIG, "reader").encoded == SECRET


def test_who_may_not_is_told_what_is_needed(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Cluster, "status", 403)
    said = run("key", "--role", "writer", "--elasticsearch", cluster, code=1)
    assert "manage_own_api_key" in said
