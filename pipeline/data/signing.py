"""Signing: a short-lived token is added when an asset is opened, and is stored nowhere."""

from __future__ import annotations

import threading
import warnings
from datetime import UTC, datetime, timedelta
from functools import cache
from urllib.parse import urlsplit

import requests

from pipeline.data import web

_AZURE = ".blob.core.windows.net"
# S3 buckets that anyone may read: by https no AWS account is needed.
_OPEN_BUCKETS = ("copernicus-dem-30m", "esa-worldcover")
_MARGIN = timedelta(minutes=1)  # a token that ends sooner is not begun with


def signed(href: str, signer: str) -> str:
    """The href to open.

    Args:
        href: unsigned.
        signer: of the source row; ``planetary-computer`` asks for a token (kept in memory until
            a minute before it ends) for files in Azure storage; anything else leaves the href
            alone, and so do files elsewhere: a token is handed to nobody but its storage. Files
            of open S3 buckets are opened by https.

    Raises:
        OSError: no token is to be had.
    """
    parts = urlsplit(href)
    host = parts.hostname or ""
    if parts.scheme == "s3" and host in _OPEN_BUCKETS:
        return f"https://{host}.s3.amazonaws.com{parts.path}"
    if signer == "planetary-computer" and parts.scheme == "https" and host.endswith(_AZURE):
        return _planetary_computer().sign(href)
    return href


def renewed(href: str, signer: str, refused: str) -> str:
    """The href to open after the storage refused one, although its token should have held.

    Args:
        href, signer: as for ``signed``.
        refused: the signed href that did not work; it comes back where there is no other.
    """
    if refused != href:
        _planetary_computer().forget(refused)
    return signed(href, signer)


class Tokens:
    """Tokens of the Planetary Computer, one a storage container.

    Its own library gives them, too, but waits for ever for a server that does not answer.

    Args:
        endpoint: that gives tokens.
        key: of a subscriber; may be empty.
    """

    def __init__(self, endpoint: str, key: str) -> None:
        self._endpoint, self._key = endpoint, key
        self._held: dict[str, tuple[str, datetime]] = {}
        self._lock = threading.Lock()  # one thread asks, the others wait for its token

    def sign(self, href: str) -> str:
        """The href with a token that holds for another minute at least."""
        parts = urlsplit(href)
        place = f"{(parts.hostname or '').split('.')[0]}/{parts.path.lstrip('/').split('/')[0]}"
        with self._lock:
            token, end = self._held.get(place, ("", datetime.min.replace(tzinfo=UTC)))
            if end < datetime.now(UTC) + _MARGIN:
                token, end = self._held[place] = self._ask(place)
        return f"{href}{'&' if parts.query else '?'}{token}"

    def forget(self, href: str) -> None:
        """Ask anew, next time, for the token that is in a signed href."""
        with self._lock:
            self._held = {k: held for k, held in self._held.items() if not href.endswith(held[0])}

    def _ask(self, place: str) -> tuple[str, datetime]:
        headers = {"Ocp-Apim-Subscription-Key": self._key} if self._key else {}
        answer = web.session(frozenset()).get(f"{self._endpoint}/{place}", headers=headers)
        try:
            answer.raise_for_status()
            body = answer.json()
            return str(body["token"]), datetime.fromisoformat(body["msft:expiry"])
        except (requests.RequestException, ValueError, KeyError, TypeError):
            raise OSError(f"no token for {place}: HTTP {answer.status_code}") from None


@cache
def _planetary_computer() -> Tokens:
    """With the settings of its library, imported when first needed: that costs half a second, and
    pydantic warns of its old style."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from planetary_computer.settings import Settings
    settings = Settings.get()
    return Tokens(settings.sas_url or "", settings.subscription_key or "")
