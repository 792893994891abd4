"""A bucket of S3-compatible storage: whole objects in and out, with errors people understand.

An object appears when its upload is complete, and replaces the one before in one step; large ones
go in parts that nobody sees until then. Credentials, region and endpoint come from the environment,
as of every S3 tool: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``,
``AWS_ENDPOINT_URL`` (``AWS_ALLOW_HTTP=true`` for an endpoint without TLS).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.data.hrefs import scrubbed
from pipeline.spec.errors import BadRequest, DataTrouble

_AT_ONCE = 8  # objects on the wire together


class Bucket:
    """What lies below ``s3://bucket/prefix``; keys are relative to it."""

    def __init__(self, url: str) -> None:
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise BadRequest("object storage needs the package obstore", got=url,
                             then="pip install 'wallmap[s3]'") from None
        self._errors, self.url = obstore.exceptions, url.rstrip("/")
        self._missing = (FileNotFoundError, obstore.exceptions.NotFoundError)
        with self._told("open"):
            self._store: Any = from_url(self.url)

    def get(self, key: str) -> bytes | None:
        """Content of an object; None where there is none."""
        with self._told(key):
            try:
                return bytes(self._store.get(key).bytes())
            except self._missing:
                return None

    def get_json(self, key: str) -> dict[str, Any]:
        """A JSON object; empty where there is none."""
        return self.tagged(key)[0]

    def put(self, key: str, content: bytes | Path) -> None:
        """Write an object whole or not at all; a file of any size."""
        with self._told(key):
            self._store.put(key, content)

    def claim(self, key: str, content: bytes, tag: str = "") -> str:
        """Write an object that nobody else has written meanwhile.

        Args:
            key: of the object.
            content: to write.
            tag: of the object that is replaced (``tagged``); empty: there must be none.

        Returns:
            Its new tag; empty where somebody else has written it: nothing is changed then.
        """
        beaten = (self._errors.AlreadyExistsError, self._errors.PreconditionError)
        with self._told(key):
            try:
                made = self._store.put(key, content, mode={"e_tag": tag} if tag else "create")
            except (*beaten, *self._missing):
                return ""
        return str(made["e_tag"])

    def tagged(self, key: str) -> tuple[dict[str, Any], str]:
        """A JSON object and its tag; empty where there is none."""
        content, tag = self.read(key)
        try:
            return dict(json.loads(content)), tag
        except (ValueError, TypeError):
            return {}, tag

    def read(self, key: str) -> tuple[bytes, str]:
        """Content of an object and its tag, which is another one for other content; empty where
        there is none."""
        with self._told(key):
            try:
                answer = self._store.get(key)
                return bytes(answer.bytes()), str(answer.meta["e_tag"])
            except self._missing:
                return b"", ""

    def age(self, key: str) -> float:
        """Seconds since an object was written, by the store's own clock: those of machines differ.
        Endless where there is none."""
        probe = f"{key}.{uuid.uuid4().hex}"
        self.put(probe, b"now")
        with self._told(key):
            now = self._store.head(probe)["last_modified"]
            self._store.delete(probe)
            try:
                then = self._store.head(key)["last_modified"]
            except self._missing:
                return float("inf")
        return float((now - then).total_seconds())

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        with self._told(key):
            try:
                self._store.head(key)
            except self._missing:
                return False
        return True

    def folders(self, prefix: str = "") -> list[str]:
        """Names of what looks like folders directly below a prefix."""
        with self._told(prefix):
            found = self._store.list_with_delimiter(prefix or None)["common_prefixes"]
        return sorted(str(p).rstrip("/").rpartition("/")[2] for p in found)

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix, sorted."""
        with self._told(prefix):
            return sorted(str(meta["path"]) for page in self._store.list(prefix) for meta in page)

    def upload(self, pairs: Iterable[tuple[str, Path]]) -> None:
        """Upload files, several at once; returns when all are there."""
        self._together(lambda pair: self.put(*pair), pairs)

    def download(self, pairs: Iterable[tuple[str, Path]]) -> None:
        """Download objects into files that nobody uses yet, several at once.

        Raises:
            DataTrouble: one of them is not there any more, or the disk is full.
        """
        self._together(lambda pair: self._download(*pair), pairs)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are no trouble."""
        if found := list(keys):
            with self._told(found[0]):
                self._store.delete(found)

    def _download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._told(key), path.open("wb") as file:
            for piece in self._store.get(key).stream():
                file.write(piece)

    def _together(self, do: Any, pairs: Iterable[tuple[str, Path]]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            jobs = [pool.submit(do, pair) for pair in pairs]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)  # the first trouble ends it all
                raise

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Turn the library's long messages into one line."""
        try:
            yield
        except (self._errors.BaseError, OSError, ValueError) as error:
            text = scrubbed(str(error)).partition("\n")[0][:300]
            raise DataTrouble(f"object storage: {scrubbed(self.url)}/{key}", got=text,
                              then="look at AWS_ENDPOINT_URL, AWS_REGION and the credentials, and "
                              "type the command again") from error


def below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names relative to a folder, and paths, of all files below it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path
