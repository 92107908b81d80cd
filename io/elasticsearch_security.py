"""Elasticsearch: roles and API keys, as requests of the security API.

The requests are pure functions. They fit what Elastic publishes of its API, and were never sent to
a cluster with security: none can be had here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from elasticsearch import ApiError, Elasticsearch

from adtally.io.elasticsearch import KINDS
from adtally.io.elasticsearch_client import AccessDenied, ElasticsearchConfig
from adtally.io.elasticsearch_tenants import safe_name

ROLES: Final = ("writer", "reader", "tenant", "puller", "operator")
METADATA: Final = "advertiser_id"
"""Of a user's metadata: whose documents the role ``tenant`` shows."""

LONGEST_NAME: Final = 256
"""Characters of an API key's name that Elasticsearch takes."""

DLS_LICENCES: Final = frozenset({"trial", "platinum", "enterprise"})
"""Licences with document-level security (Elastic's subscription page)."""

_WRITE: Final = ["read", "write", "maintenance", "auto_configure", "view_index_metadata"]
_PRIVILEGES: Final[dict[str, tuple[list[str], list[str]]]] = {
    "writer": (["monitor"], _WRITE),
    "reader": ([], ["read", "view_index_metadata"]),
    "tenant": ([], ["read"]),
    "puller": ([], ["read", "maintenance", "monitor", "view_index_metadata"]),
    "operator": (["monitor", "manage_index_templates"], [*_WRITE, "manage", "delete_index"]),
}


class SecurityMissing(RuntimeError):
    """The cluster has no security, or its licence lacks what is needed."""


@dataclass(frozen=True)
class NewKey:
    """An API key just made. ``encoded`` is the secret, which Elasticsearch does not tell again."""

    id: str
    name: str
    encoded: str

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r}, name={self.name!r})"


def role_name(config: ElasticsearchConfig, role: str) -> str:
    """Such as ``adtally-writer``."""
    return f"{config.index_prefix}-{role}"


def role(config: ElasticsearchConfig, role: str, advertiser: str | None = None) -> dict[str, Any]:
    """A role descriptor: body of a role, or part of an API key.

    Args:
        config: names the indices.
        role: one of ``ROLES``.
        advertiser: whose documents a ``tenant`` sees. None for those of the advertiser in the
            metadata of whoever asks: one role for all tenants. A key has no metadata of its own.
    """
    cluster, privileges = _PRIVILEGES[role]
    indices: dict[str, Any] = {
        "names": [config.index_pattern(kind) for kind in KINDS],
        "privileges": privileges,
    }
    if role == "operator":
        indices["names"] = [f"{config.index_prefix}-*"]
    if role == "tenant":
        whose = f"{{{{_user.metadata.{METADATA}}}}}" if advertiser is None else advertiser
        query = {"term": {"advertiser_id": whose}}
        indices["query"] = {"template": {"source": query}} if advertiser is None else query
    return {"cluster": cluster, "indices": [indices]}


def role_requests(config: ElasticsearchConfig) -> dict[str, dict[str, Any]]:
    """Arguments of ``security.put_role``, by role."""
    return {
        name: {
            "name": role_name(config, name),
            **role(config, name),
            "metadata": {"made_by": "adtally"},
        }
        for name in ROLES
    }


def key_request(
    config: ElasticsearchConfig, name: str, advertiser: str | None, expires_seconds: int | None
) -> dict[str, Any]:
    """Arguments of ``security.create_api_key``.

    Args:
        config: names the indices.
        name: one of ``ROLES``.
        advertiser: of the role ``tenant``.
        expires_seconds: None for never.
    """
    named = role_name(config, name)
    metadata = {"made_by": "adtally", "role": name}
    if advertiser is not None:
        named = f"{named}-{safe_name(advertiser)}"[:LONGEST_NAME]
        metadata[METADATA] = advertiser
    request: dict[str, Any] = {
        "name": named,
        "role_descriptors": {role_name(config, name): role(config, name, advertiser)},
        "metadata": metadata,
    }
    return request if expires_seconds is None else {**request, "expiration": f"{expires_seconds}s"}


def install_roles(client: Elasticsearch, config: ElasticsearchConfig) -> list[str]:
    """Make or renew the roles; says what it did. Safe to repeat.

    Raises:
        SecurityMissing: the cluster cannot have roles.
        AccessDenied: these credentials may not; ``manage_security`` is needed.
    """
    done = []
    for request in role_requests(config).values():
        _asked(client.security.put_role, request)
        done.append(f"role {request['name']} is installed")
    if not has_document_security(client):
        done.append(
            f"role {role_name(config, 'tenant')} refuses every search under this licence: "
            f"document-level security needs {', '.join(sorted(DLS_LICENCES))}"
        )
    return done


def create_key(
    client: Elasticsearch,
    config: ElasticsearchConfig,
    name: str,
    advertiser: str | None = None,
    expires_seconds: int | None = None,
) -> NewKey:
    """Make an API key. Every call makes another one.

    Raises:
        SecurityMissing: the cluster cannot have keys, or none that is limited to a tenant.
        AccessDenied: these credentials may not; ``manage_own_api_key`` is needed, and what the key
            is to have. A key cannot make keys with privileges.
    """
    if name == "tenant" and not has_document_security(client):
        raise SecurityMissing(
            f"this cluster's licence has no document-level security (it needs "
            f"{', '.join(sorted(DLS_LICENCES))}), so a tenant's key would see nothing, or "
            f"everything; no key was made. 'adtally elasticsearch tenants' makes filtered aliases "
            f"for a service of yours that asks on behalf of tenants."
        )
    request = key_request(config, name, advertiser, expires_seconds)
    answer = _asked(client.security.create_api_key, request)
    return NewKey(answer["id"], answer["name"], answer["encoded"])


@contextlib.contextmanager
def new_secret(path: Path) -> Iterator[Callable[[str], None]]:
    """A new file that its owner alone can read; gives what writes a secret into it.

    It is there before the secret is made, which could be read nowhere else; without one it goes.

    Raises:
        OSError: it cannot be written, or (FileExistsError) there is one, which may be the only copy
            of another secret.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:

        def write(secret: str) -> None:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())

        try:
            yield write
        except BaseException:
            if not file.tell():
                path.unlink(missing_ok=True)
            raise


def has_document_security(client: Elasticsearch) -> bool:
    """Whether the licence has it.

    Raises:
        SecurityMissing: the cluster has no licence at all, and so no security.
    """
    licence = _asked(client.license.get, {})["license"]
    return licence.get("status") == "active" and licence.get("type") in DLS_LICENCES


def _asked(ask: Any, request: dict[str, Any]) -> Any:
    """An answer of the security API; its requests hold no secret, its answers may."""
    try:
        return ask(**request)
    except ApiError as error:
        status, why = error.meta.status, str(error.message)[:200]
        if status in (401, 403):
            raise AccessDenied(
                f"Elasticsearch answers {status}: roles and keys cannot be made with these "
                f"credentials. Use those of a user (an API key cannot give privileges on) with "
                f"the cluster privileges 'manage_security' for roles and 'manage_own_api_key' for "
                f"keys, and with what the key is to have."
            ) from None
        if status in (400, 404, 405) or "security" in why.lower():
            raise SecurityMissing(
                f"this cluster has no security ({status}: {why}), so it has no roles and no keys, "
                f"and whoever reaches it reads every tenant. Switch xpack.security on; until then, "
                f"keep the cluster behind a service of yours. 'adtally elasticsearch tenants' "
                f"makes filtered aliases for that one."
            ) from None
        raise
