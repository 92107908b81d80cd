"""Addresses of servers, and why a connection to one that is encrypted does not come about."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import logging
import re
from typing import Final
from urllib.parse import urlsplit

AWS_AUTHORITY: Final = "AWS_CA_BUNDLE=FILE.pem in the environment, of every worker too"
GOOGLE_AUTHORITY: Final = "REQUESTS_CA_BUNDLE=FILE.pem in the environment, of every worker too"

_PASSWORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/@\s]*:(?!\$\{\w+\}@)[^/@\s]*@")
"""``${NAME}`` is none: it names where the password is."""

_OTHER_NAME: Final = "mismatch", "doesn't match", "hostname verification check failed"
_UNTRUSTED: Final = re.compile(
    r"certificate_verify_failed|hostname '.*' doesn't match|hostname verification check failed"
)
_NO_TLS: Final = ("wrong_version_number", "record_layer_failure")


def holds_password(text: str) -> bool:
    """Whether a text has an address such as ``https://user:password@host`` in it."""
    return _PASSWORD.search(text) is not None


def on_this_machine(host: str) -> bool:
    """Whether what is sent to a host stays on this machine.

    Args:
        host: name or address, without port and brackets.
    """
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def is_plain(url: str) -> bool:
    """Whether what is sent to a URL can be read on the way: plain HTTP to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not on_this_machine(parts.hostname or "")


def check_url(option: str, url: str) -> None:
    """Refuse what is no plain URL of a server; one that may hold a password is not repeated.

    Raises:
        ValueError: says what to write instead.
    """
    if "@" in url:
        raise ValueError(
            f"{option} holds a user or password (it has an '@'), which would be seen in logs and "
            f"jobs; give the URL alone, and credentials through the environment or a file."
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(
            f"{option} {url!r} is no URL ({error}); write it as https://HOST."
        ) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(
            f"{option} {url.partition('?')[0]!r} is no URL, so nothing could be reached; write it "
            f"as https://HOST."
        )


def refusal(error: BaseException, authority: str) -> str:
    """Why TLS cannot be spoken with a server, and what to do; empty where trying again may help.

    Args:
        error: of any client; the words of OpenSSL, BoringSSL and urllib3 are looked for in it.
        authority: what to give to have another authority trusted.
    """
    # Elasticsearch's client says "TLS error" only, and keeps the reason in its message.
    text = f"{error} {getattr(error, 'message', '')}".lower()
    if _UNTRUSTED.search(text):
        return f"its certificate {_untrusted(text, authority)}"
    if any(sign in text for sign in _NO_TLS):
        return (
            "it does not speak TLS on that port. Correct the port, or write http:// where nobody "
            "listens in between"
        )
    return ""


def _untrusted(text: str, authority: str) -> str:
    if "has expired" in text:
        return "has expired, or this machine's clock is wrong. Renew the one, or set the other"
    if any(sign in text for sign in _OTHER_NAME):
        return (
            "was made for another name. Use a name that is in it, or have one made for this name; "
            "another authority does not help"
        )
    return f"is signed by nobody who is trusted here. Give the authority: {authority}"


def quiet_aws() -> None:
    """Unless it is asked for by name, no debugging log of botocore: it has whole signed requests in
    it, and with them the token of temporary credentials."""
    log = logging.getLogger("botocore")
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)


@functools.lru_cache(maxsize=256)
def warn_once(log: logging.Logger, text: str) -> None:
    """A warning, the first time in this process."""
    log.warning(text)
