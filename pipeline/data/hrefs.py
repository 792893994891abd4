"""Hrefs of assets: absolute, unsigned, and nowhere a catalogue has no business to point at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urljoin, urlsplit, urlunsplit

_REMOTE = ("http", "https", "s3", "gs", "az")
_LONGEST = 4096  # characters of an href
_ADDRESS = re.compile(rf"\b(?:{'|'.join(_REMOTE)})://[^\s'\"<>]+")

# Query parameters that only a signed URL has (Azure SAS, AWS, Google): they expire.
_SIGNATURES = {"sig", "signature", "x-amz-signature", "x-goog-signature", "x-amz-security-token"}


def is_url(text: str) -> bool:
    """Whether it is an http(s) address."""
    return urlsplit(text).scheme in ("http", "https")


def is_remote(text: str) -> bool:
    """Whether it is an address on the web or in a bucket."""
    return urlsplit(text).scheme in _REMOTE


def unsigned(href: str) -> str:
    """The href without its query when that carries a signature."""
    parts = urlsplit(href)
    names = {name.lower() for name, _ in parse_qsl(parts.query)}
    return urlunsplit(parts._replace(query="")) if names & _SIGNATURES else href


def shown(href: str) -> str:
    """The href as messages may show it: without query and without user and password."""
    try:
        parts = urlsplit(href)
    except ValueError:  # http://[ is no address, and what stands behind it is still not shown
        return href.partition("?")[0]
    if parts.scheme not in _REMOTE:
        return href
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def scrubbed(value: Any) -> Any:
    """Text, or JSON that holds text, as it may be written down: addresses without query, user and
    password, whatever these are called. What is needed to read a file stays in memory."""
    if isinstance(value, str):
        return _ADDRESS.sub(lambda found: shown(found[0]), value)
    if isinstance(value, dict):
        return {scrubbed(k): scrubbed(v) for k, v in value.items()}
    return [scrubbed(v) for v in value] if isinstance(value, list | tuple) else value


def absolute(href: str, base: str, root: Path | None) -> str:
    """Absolute, unsigned href of a link or asset.

    Args:
        href: as written in the document.
        base: URL, or path of the file, of the document.
        root: folder that a local catalogue may point into; None for a catalogue on the web.

    Raises:
        ValueError: it points at a local file outside the catalogue, or is no address at all.
    """
    if not isinstance(href, str) or len(href) > _LONGEST or not href.isprintable():
        raise ValueError("an href is not one line of text")
    scheme = urlsplit(href).scheme
    if scheme in _REMOTE:
        if not urlsplit(href).hostname:
            raise ValueError(f"{href!r} names no host")
        return unsigned(href)
    if root is None:
        if scheme or not href or not is_url(base) or href.startswith("/vsi"):
            raise ValueError(f"{href!r} is not an address on the web")
        return unsigned(urljoin(base, href))
    if scheme == "file":
        href = unquote(urlsplit(href).path)
    elif scheme or href.startswith("/vsi"):
        raise ValueError(f"{href!r} is neither a file of the catalogue nor a web address")
    path = (Path(base).parent / href).resolve()
    if not path.is_relative_to(root):
        raise ValueError(f"{href!r} lies outside the catalogue's folder")
    return str(path)
