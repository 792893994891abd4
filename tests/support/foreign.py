"""Items of a foreign catalogue, and a process that trusts none of it."""

from __future__ import annotations

import dataclasses

import pytest

from pipeline.data import web
from pipeline.data.items import ItemSet
from pipeline.data.remote import RemoteFile


def untrusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host is trusted, no header is held, and nobody sleeps between attempts."""
    monkeypatch.setattr(web, "_sleep", lambda _: None)
    monkeypatch.delenv(web.TRUSTED_HOSTS, raising=False)
    RemoteFile._headers.clear()


def only(items: ItemSet, href: str) -> ItemSet:
    """The first item, its radar image elsewhere."""
    one = items.items[0].clone()
    one.assets["vv"].href = href
    one.assets["vv"].extra_fields = {}
    return dataclasses.replace(items, items=(one,))
