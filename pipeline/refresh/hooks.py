"""A word to people's chat or pager when a refresh came to nothing."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlsplit

import requests

from pipeline.data.hrefs import scrubbed
from pipeline.data.web import host_of, is_private, reason_of, trusted_hosts
from pipeline.refresh.result import RefreshResult

TIMEOUT_S = 10.0
_log = logging.getLogger(__name__)


def on_failure(url: str, result: RefreshResult) -> bool:
    """POST a result as JSON; ``text`` in it is what Slack, Mattermost and their like show.

    It goes over https only, unless the host is named in ``WALLMAP_TRUSTED_HOSTS``. A webhook that
    does not answer is logged and changes nothing: the exit code is the refresh's.

    Args:
        url: of the webhook; it is a secret, and only its host is ever written down.
        result: of the refresh.

    Returns:
        Whether it was delivered.
    """
    host = ""
    try:
        host = host_of(url)
        if not _safe(url, host):
            raise ValueError("it wants https, or a host named in WALLMAP_TRUSTED_HOSTS")
        with requests.Session() as session:
            session.auth = lambda request: request  # no passwords from ~/.netrc
            answer = session.post(url, json=_body(result), timeout=TIMEOUT_S,
                                  stream=True,  # an answer without end is nobody's matter
                                  allow_redirects=False)  # the result goes where it was sent
        if not answer.ok or answer.is_redirect:
            raise ValueError(f"it answers {answer.status_code}")
    except (requests.RequestException, ValueError, OSError) as error:
        _log.warning("the webhook at %s was not told: %s", host or "no host", reason_of(error))
        return False
    return True


def _safe(url: str, host: str) -> bool:
    """Whether nobody on the way reads along: encrypted, or the user's own network."""
    named = host in trusted_hosts("")
    return named or (urlsplit(url).scheme == "https" and bool(host) and not is_private(host))


def _body(result: RefreshResult) -> Any:
    text = f"wallmap: {result.region}/{result.task} {result.status}: {result.reason}"
    return scrubbed({"text": text, **result.to_json()})
