"""Which credentials requests carry: of S3 by boto3's chain, of GCS by Google's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from adtally.io.files import exists
from adtally.runners.direct import use_storage
from tests.fault_proxy import Fault, FaultProxy, Refused, Request
from tests.stores import ObjectStore

ASK = """
import sys
from adtally.io.files import exists
from adtally.runners.direct import use_storage
use_storage(sys.argv[2:])
print(exists(sys.argv[1]))
"""


def shown(proxy: FaultProxy) -> str:
    """The authorization of the last request."""
    return proxy.seen[-1].headers.get("authorization", "")


@pytest.mark.parametrize("store", ["s3"], indirect=True)
@pytest.mark.parametrize("source", ["environment", "file", "options"])
def test_s3_takes_the_chain_of_boto3(
    tmp_path: Path,
    store: ObjectStore,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    bucket = store.make_bucket()
    options = list(store.arguments(proxy.url))
    if source == "environment":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENVIRONMENT")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")
    elif source == "file":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        file = tmp_path / "credentials"
        file.write_text("[other]\naws_access_key_id = FROMFILE\naws_secret_access_key = s\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        monkeypatch.setenv("AWS_PROFILE", "other")
    else:  # they win over the environment
        options += ["--s3_access_key_id=FROMOPTIONS", "--s3_secret_access_key=s"]
    use_storage(options)
    assert not exists(f"s3://{bucket}/thing")
    assert f"Credential=FROM{source.upper()}/" in shown(proxy)
    assert ("x-amz-security-token" in proxy.seen[-1].headers) == (source == "environment")


@pytest.mark.parametrize("store", ["gs"], indirect=True)
def test_gcs_takes_application_default_credentials(
    tmp_path: Path, store: ObjectStore, proxy: FaultProxy
) -> None:
    bucket = store.make_bucket()
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    account = {
        "type": "service_account",
        "client_email": "adtally@project.example",
        "private_key": key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
        "token_uri": f"{proxy.url}/token",
    }
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))

    def judge(request: Request) -> Fault | None:
        token = {"access_token": "a-token", "expires_in": 3_600, "token_type": "Bearer"}
        return Refused(200, json.dumps(token).encode()) if request.path == "/token" else None

    proxy.fault = judge
    environment = {**os.environ, "API_ENDPOINT_OVERRIDE": proxy.url}
    del environment["STORAGE_EMULATOR_HOST"]
    environment["GOOGLE_APPLICATION_CREDENTIALS"] = str(file)

    def ask(*options: str) -> None:
        # In a process of its own, as Beam keeps the credentials that it found.
        command = [sys.executable, "-c", ASK, f"gs://{bucket}/thing", *options]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert told.stdout == "False\n"

    ask()
    assert {request.path for request in proxy.faults} == {"/token"}
    assert shown(proxy) == "Bearer a-token"
    proxy.faults.clear()
    ask("--no_auth")
    assert proxy.faults == []
    assert shown(proxy) == ""


@pytest.mark.parametrize("store", ["gs"], indirect=True)
def test_an_emulator_of_gcs_is_asked_without_credentials(
    store: ObjectStore, proxy: FaultProxy
) -> None:
    assert not exists(f"gs://{store.make_bucket()}/thing")
    assert shown(proxy) == ""
