"""Signing: a short-lived token is added when an asset is opened, and is stored nowhere."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Protocol
from urllib.parse import urlsplit

_AZURE = ".blob.core.windows.net"
# S3 buckets that anyone may read: by https no AWS account is needed.
_OPEN_BUCKETS = ("copernicus-dem-30m", "esa-worldcover")


class _Sign(Protocol):
    def __call__(self, url: str) -> str: ...


def signed(href: str, signer: str) -> str:
    """The href to open.

    Args:
        href: unsigned.
        signer: of the source row; ``planetary-computer`` asks for a token (kept in memory until
            a minute before it ends) for files in Azure storage; anything else leaves the href
            alone, and so do files elsewhere: a token is handed to nobody but its storage. Files
            of open S3 buckets are opened by https.
    """
    parts = urlsplit(href)
    host = parts.hostname or ""
    if parts.scheme == "s3" and host in _OPEN_BUCKETS:
        return f"https://{host}.s3.amazonaws.com{parts.path}"
    if signer == "planetary-computer" and parts.scheme == "https" and host.endswith(_AZURE):
        return _planetary_computer()(href)
    return href


@cache
def _planetary_computer() -> _Sign:
    """Imported when first needed: it costs half a second, and pydantic warns of its old style."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from planetary_computer import sign_url
    return sign_url
