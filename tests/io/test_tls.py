"""TLS with real servers behind it: what is trusted, what is not, and that it is told at once."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import ServiceUnavailable
from google.auth.credentials import AnonymousCredentials
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from adtally.io import elasticsearch as es
from adtally.io import pubsub_client
from adtally.io.alerts import AlertSinkError, KinesisAlerts
from adtally.io.elasticsearch_bulk import BulkWriter, RequestRefused
from adtally.io.endpoints import check_url, holds_password, is_plain, on_this_machine, warn_once
from adtally.io.files import exists, read_bytes
from adtally.io.kinesis_client import Kinesis, KinesisConfig, KinesisSourceError, connect
from adtally.io.kinesis_producer import PutError, put_lines
from adtally.runners.direct import use_storage
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.kinesis_server import REGION, KinesisServer, make_stream
from tests import streams
from tests.stores import ObjectStore
from tests.tls import Authority, TlsProxy

AT_ONCE_SECONDS = 15.0
"""Clients try what passes for 50 s and more; one attempt on a busy machine takes less than this."""

NOWHERE = "http://127.0.0.1:9"
"""What is behind it is not reached."""

REFUSALS = [
    ("stranger", "signed by nobody who is trusted here. Give the authority"),
    ("elsewhere", "made for another name"),
    ("expired", "has expired"),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def front(authority: Authority) -> Iterator[Callable[[str, str], TlsProxy]]:
    """Puts TLS before a server, with a certificate of a kind."""
    with contextlib.ExitStack() as stack:

        def before(url: str, kind: str = "good") -> TlsProxy:
            context = authority.server("good" if kind == "stranger" else kind)
            return stack.enter_context(TlsProxy(url, context))

        yield before


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < AT_ONCE_SECONDS


def ask(url: str, **settings: Any) -> None:
    """What a run begins with: are the templates there?"""
    config = es.ElasticsearchConfig((url,), index_prefix="tls", **settings)
    with contextlib.closing(es.connect(config)) as client:
        BulkWriter(client, config).when_up(lambda: es.templates_installed(client, config))
        es.install_templates(client, config)


def test_elasticsearch_with_its_authority(
    front: Any, authority: Authority, elasticsearch_node: ElasticsearchNode
) -> None:
    proxy = front(elasticsearch_node.url)
    ask(proxy.url, ca_file=str(authority.file))
    assert proxy.heard


@pytest.mark.parametrize(("kind", "why"), REFUSALS)
def test_elasticsearch_is_refused_at_once(
    front: Any, authority: Authority, stranger: Authority, kind: str, why: str
) -> None:
    """No node is asked: nothing gets through the handshake."""
    trusted = stranger if kind == "stranger" else authority
    proxy = front(NOWHERE, kind)
    with at_once(), pytest.raises(RequestRefused, match=why):
        ask(proxy.url, ca_file=str(trusted.file))
    config = es.ElasticsearchConfig((proxy.url,), ca_file=str(trusted.file))
    with contextlib.closing(es.connect(config)) as client, pytest.raises(RequestRefused, match=why):
        es.install_templates(client, config)
    assert (proxy.met, proxy.heard) == (2, 0)


def test_elasticsearch_has_no_authority_of_its_own(front: Any) -> None:
    proxy = front(NOWHERE)
    with at_once(), pytest.raises(RequestRefused, match="--elasticsearch-ca-file"):
        ask(proxy.url)


def test_https_to_a_port_without_tls(elasticsearch_node: ElasticsearchNode) -> None:
    with at_once(), pytest.raises(RequestRefused, match="does not speak TLS"):
        ask(elasticsearch_node.url.replace("http:", "https:"))


def test_insecure_goes_through_and_is_loud(
    front: Any, elasticsearch_node: ElasticsearchNode, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    proxy = front(elasticsearch_node.url, "expired")
    ask(proxy.url, verify_tls=False)
    ask(proxy.url, verify_tls=False)
    (line,) = [one for one in caplog.records if "--elasticsearch-insecure" in one.getMessage()]
    assert line.levelname == "WARNING"
    assert "can read the credentials" in line.getMessage()


def test_a_file_that_is_no_authority(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(es.ElasticsearchConfigError, match=r"ca\.pem.* holds no certificate"):
        ask("https://127.0.0.1:9", ca_file=str(tmp_path / "ca.pem"))


def test_credentials_go_over_tls_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    far, near = "http://search.example:9200", "http://127.0.0.1:9200"
    es.connect(es.ElasticsearchConfig((far,))).close()
    assert "is not encrypted" in caplog.text
    monkeypatch.setenv(es.API_KEY_ENV, "a-key")
    es.connect(es.ElasticsearchConfig((near,))).close()
    es.connect(es.ElasticsearchConfig((far.replace("http:", "https:"),))).close()
    with pytest.raises(es.ElasticsearchConfigError, match="would be readable on the way"):
        es.connect(es.ElasticsearchConfig((near, far)))
    es.connect(es.ElasticsearchConfig((far,), verify_tls=False)).close()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in {**streams.AWS, "AWS_DEFAULT_REGION": REGION}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_kinesis_with_its_authority(
    front: Any, authority: Authority, kinesis_server: KinesisServer, aws: pytest.MonkeyPatch
) -> None:
    make_stream(kinesis_server.url, "tls", 1)
    config = KinesisConfig("tls", REGION, front(kinesis_server.url).url)
    aws.setenv("AWS_CA_BUNDLE", str(authority.file))
    assert list(put_lines(config, [b"one", b"two"])) == [2]
    assert len(Kinesis(config, connect(config)).list_shards()) == 1
    KinesisAlerts(config).check()


@pytest.mark.parametrize(("kind", "why"), [*REFUSALS, ("unset", "AWS_CA_BUNDLE=FILE.pem")])
def test_kinesis_is_refused_at_once(
    front: Any,
    authority: Authority,
    stranger: Authority,
    aws: pytest.MonkeyPatch,
    kind: str,
    why: str,
) -> None:
    if kind != "unset":
        trusted = stranger if kind == "stranger" else authority
        aws.setenv("AWS_CA_BUNDLE", str(trusted.file))
    proxy = front(NOWHERE, "good" if kind == "unset" else kind)
    config = KinesisConfig("tls", REGION, proxy.url)
    with at_once(), pytest.raises(KinesisSourceError, match=why):
        Kinesis(config, connect(config)).list_shards()
    with at_once(), pytest.raises(PutError, match=why):
        list(put_lines(config, [b"one"]))
    with at_once(), pytest.raises(AlertSinkError, match=why):
        KinesisAlerts(config).check()
    assert (proxy.met, proxy.heard) == (3, 0)


def use(store: ObjectStore, url: str, patch: pytest.MonkeyPatch, trusted: Authority) -> None:
    """Have adtally use a store that is behind a URL, and trust an authority."""
    for name, value in store.environment(url).items():
        patch.setenv(name, value)
    bundle = {"s3": "AWS_CA_BUNDLE", "gs": "REQUESTS_CA_BUNDLE"}[store.scheme]
    patch.setenv(bundle, str(trusted.file))
    use_storage(store.arguments(url))


def test_a_store_with_its_authority(
    front: Any, authority: Authority, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = store.make_bucket()
    store.put(bucket, "thing", b"content")
    use(store, front(store.url).url, monkeypatch, authority)
    assert read_bytes(f"{store.scheme}://{bucket}/thing") == b"content"


@pytest.mark.parametrize(("kind", "why"), REFUSALS)
def test_a_store_is_refused_at_once(
    front: Any,
    authority: Authority,
    stranger: Authority,
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    why: str,
) -> None:
    proxy = front(NOWHERE, kind)
    use(store, proxy.url, monkeypatch, stranger if kind == "stranger" else authority)
    with at_once(), pytest.raises(OSError, match=why):
        exists(f"{store.scheme}://bucket/thing")
    with at_once(), pytest.raises(OSError, match=why):
        read_bytes(f"{store.scheme}://bucket/thing")
    assert proxy.met <= 3  # Beam asks for the bucket of GCS too
    assert proxy.heard == 0


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_s3_takes_an_authority_as_an_option(
    front: Any, authority: Authority, store: ObjectStore
) -> None:
    bucket = store.make_bucket()
    use_storage([*store.arguments(front(store.url).url), f"--s3_verify={authority.file}"])
    assert not exists(f"s3://{bucket}/thing")


@pytest.mark.parametrize("kind", ["stranger", "elsewhere", "expired"])
def test_grpc_that_is_not_trusted_does_not_pass(
    front: Any, authority: Authority, stranger: Authority, kind: str
) -> None:
    """What a client of Google's says of a certificate; the service's own cannot be reached here."""
    proxy = front(NOWHERE, kind)
    trusted = stranger if kind == "stranger" else authority
    secure = grpc.ssl_channel_credentials(trusted.file.read_bytes())
    channel = grpc.secure_channel(f"127.0.0.1:{proxy.port}", secure)
    transport = SubscriberGrpcTransport(channel=channel, credentials=AnonymousCredentials())
    with channel, pytest.raises(ServiceUnavailable) as caught:
        request = {"subscription": "projects/p/subscriptions/s", "max_messages": 1}
        SubscriberClient(transport=transport).pull(request=request, retry=None, timeout=10)
    assert not pubsub_client.is_passing(caught.value), caught.value


def test_what_stays_on_this_machine() -> None:
    for host in ("localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"):
        assert on_this_machine(host)
    for host in ("localhost.example", "10.0.0.1", "0.0.0.0", "", "kinesis", "127.0.0.1.example"):
        assert not on_this_machine(host)
    assert is_plain("http://10.0.0.1:4566")
    assert not is_plain("http://[::1]:4566")
    assert not is_plain("https://search.example")


@pytest.mark.parametrize("url", ["https://ann:pw@host", "ann:pw@host", "https://ann@host"])
def test_an_endpoint_with_a_user_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="holds a user or password") as caught:
        KinesisConfig("s", REGION, url)
    assert "ann" not in str(caught.value)


@pytest.mark.parametrize("url", ["host:4566", "ftp://host", "https://", "http://host:99999"])
def test_an_endpoint_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="write it as https://HOST"):
        check_url("--an-option", url)


def test_passwords_in_addresses_are_seen() -> None:
    assert holds_password("s3://key:secret@bucket/logs")
    assert holds_password("('a', 'https://u:@h')")
    for text in (
        "s3://bucket/a@b:c",
        "kinesis://arn:aws:kinesis:eu:1:stream/s",
        "a:b@c",
        "x://h/a:b@c",
    ):
        assert not holds_password(text)


def test_log_of_warnings(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    log = logging.getLogger("adtally.test")
    warn_once(log, "once")
    warn_once(log, "once")
    assert [one.getMessage() for one in caplog.records] == ["once"]
