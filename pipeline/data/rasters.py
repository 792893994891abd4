"""Opening an image: wherever its file lies, as a GeoTIFF and nothing else, within limits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import rasterio

from pipeline.data.block_store import BlockStore
from pipeline.data.blocks import HeldFile
from pipeline.data.handles import OpenFiles
from pipeline.data.hrefs import is_url, shown
from pipeline.data.intact import Raw
from pipeline.data.remote import Changed, RemoteFile, Unreadable
from pipeline.data.signing import signed
from pipeline.data.web import reason_of
from pipeline.spec.errors import DataTrouble

T = TypeVar("T")

# Set around every read, so that they hold in whichever thread or process the read happens.
GDAL_OPTIONS: dict[str, Any] = {
    # no side-car files: a request less per file or hundreds, and nothing but the file decides
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "USE_RRD": "NO",
    # a block that cannot be decoded is an error
    "GTIFF_IGNORE_READ_ERRORS": "NO",
    # buckets (s3, gs, az) are read by GDAL itself: the header in one request, neighbouring blocks
    # in one request, several over one connection
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_VERSION": "2",
    # busy servers: 429, 500, 502, 503, 504 are tried again, later and later
    "GDAL_HTTP_MAX_RETRY": 4,
    "GDAL_HTTP_RETRY_DELAY": 1,
    # a connection that hangs or drips would hang the map
    "GDAL_HTTP_CONNECTTIMEOUT": 20,
    "GDAL_HTTP_TIMEOUT": 120,
    # what failed once is asked for again, and what an answer was is forgotten with the file
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/:/vsigs/:/vsiaz/",
}

MAX_SIDE = 1_000_000  # pixels
MAX_BLOCK = 1 << 28  # bytes of one block, unpacked; a strip of a whole scene has 2^24
SMALL = 1 << 20  # bytes: a remote file up to here is read whole where a checksum is stated
_SHA256 = "1220"  # multihash: sha2-256, 32 bytes follow


@dataclass(frozen=True)
class ImageFile:
    """What is known of an image's file before it is opened.

    Attributes:
        href: absolute, unsigned.
        item: id of its item, for messages.
        signer: of the source row.
        checksum: sha256 as a multihash in hexadecimal, as the item states it; may be empty. Other
            hashes are not checked.
        trusted: private hosts that may be reached.
        coarsest_m: pixel, metres, up to which overviews may stand for it; 0 is never.
    """

    href: str = field(repr=False)
    item: str
    signer: str = ""
    checksum: str = ""
    trusted: frozenset[str] = frozenset()
    coarsest_m: float = 0.0

    @property
    def alias(self) -> str:
        """What loaders know it by: they show addresses, queries and all, in logs and dashboards."""
        return "/" + hashlib.sha256(self.href.encode()).hexdigest()

    def trouble(self, reason: str) -> DataTrouble:
        """The user's error, naming item and file."""
        then = "check the connection and run again; --resume keeps what is finished"
        if self.href.startswith("s3://"):
            then = ("this bucket may be requester-pays: set AWS credentials and "
                    "AWS_REQUEST_PAYER=requester, or try --catalog planetary-computer")
        return DataTrouble(f"an asset of item {self.item} cannot be read",
                           got=f"{shown(self.href)}: {reason}", then=then)


def read_image(
    image: ImageFile, action: Callable[[HeldFile], T], store: BlockStore | None = None
) -> T:
    """What a function makes of a file; set ``GDAL_OPTIONS`` around it.

    A file on the web that cannot be decoded, or was replaced meanwhile, is read a second time: it
    may have suffered on the way. So is a file on a disk of the network that was left open: what
    it was opened with may not be good any more.

    Args:
        image: the file.
        action: reads pixels. It may raise ``Unreadable``.
        store: of blocks; the file is opened only for what is not held there.

    Raises:
        DataTrouble: it cannot be opened or read, or is not what it should be.
    """
    failure: Exception = Unreadable("not tried")
    for again in (False, True):
        remote = files = None
        try:
            if is_url(target := signed(image.href, image.signer)):
                remote = RemoteFile(image.href, image.signer, image.trusted)
                target = "image.tif"  # a name for GDAL, which knows neither address nor token
            key = _key(image, remote) if store else None
            # what GDAL reads from the web through us is bound to this one reading
            if store and key is not None and remote is None and not again:
                files = store.files
            with ExitStack() as until:
                made = action(HeldFile(
                    cache(partial(_opened, image, target, remote, until, files, key)),
                    partial(_sound, remote), _raw(image, remote, until), store, key,
                    together=remote is not None))
            _sound(remote)
            return made
        except (Unreadable, Changed, DataTrouble, rasterio.errors.RasterioError,
                OSError) as error:
            # what GDAL says of a failed transfer is that the file is broken
            failure = (remote.failure if remote else None) or error
        if not isinstance(failure, Changed | rasterio.errors.RasterioError):
            break
        if remote is not None:
            remote.forget()
        elif files is None:
            break
    raise image.trouble(reason_of(failure)) from None


def _opened(
    image: ImageFile, target: str, remote: RemoteFile | None, until: ExitStack,
    files: OpenFiles | None, key: Hashable, level: int | None,
) -> rasterio.DatasetReader:
    """The opened file, or an overview of it, until a stack is left."""
    opened = partial(_open, image, target, remote, level)
    return until.enter_context(opened()) if files is None else files.lend(
        (key, level), until, opened)


def _open(
    image: ImageFile, target: str, remote: RemoteFile | None, level: int | None
) -> rasterio.DatasetReader:
    """The file, or an overview of it, checked."""
    _check_sum(image, remote)
    options = {} if level is None else {"overview_level": level}
    file = rasterio.open(target, opener=remote, sharing=False,
                         driver="GTiff",  # a VRT of that name could name any file of this machine
                         **options)
    try:
        _check(file)
    except Unreadable:
        file.close()
        raise
    return file


def _raw(image: ImageFile, remote: RemoteFile | None, until: ExitStack) -> Raw | None:
    """The file's bytes, as GDAL had them; None where GDAL fetches them itself (buckets)."""
    if remote is not None:
        return remote.get
    if not (path := Path(image.href)).is_file():
        return None

    @cache
    def file() -> int:
        return until.enter_context(path.open("rb")).fileno()

    return lambda first, size: os.pread(file(), size, first)


def _sound(remote: RemoteFile | None) -> None:
    """Raise what went wrong on the web: GDAL may have taken it for the end of the file."""
    if remote is not None and remote.failure is not None:
        raise remote.failure


def _key(image: ImageFile, remote: RemoteFile | None) -> Hashable:
    """What tells the file as it is now, and as its item says that it is, from any other; None
    where nothing does (buckets)."""
    if remote is not None:
        return remote.key, image.checksum
    try:
        stat = os.stat(image.href)
    except OSError:
        return None  # which is said when it is opened
    return image.href, image.checksum, stat.st_size, stat.st_mtime_ns, stat.st_ino


def _check(file: rasterio.DatasetReader) -> None:
    """Refuse what would fill the memory: a header may promise anything."""
    height, width = file.block_shapes[0]
    bits = int("".join(c for c in file.dtypes[0] if c.isdecimal()) or 64)
    size = height * width * file.count * bits // 8
    if max(file.width, file.height) > MAX_SIDE or size > MAX_BLOCK:
        raise Unreadable(f"{file.width} x {file.height} pixels in blocks of {width} x {height} "
                         "are more than an image has")


def _check_sum(image: ImageFile, remote: RemoteFile | None) -> None:
    """Compare with the checksum that the item states, if it does."""
    if not image.checksum.startswith(_SHA256):
        return
    wanted = image.checksum.lower()
    if remote is None:
        path = Path(image.href)
        if not path.is_file():
            return  # in a bucket; or it is missing, which is said when it is opened
        stat = path.stat()
        right = _digest(path, stat.st_size, stat.st_mtime_ns) == wanted
    else:
        right = remote.length > SMALL or any(_hash(remote.whole()) == wanted for _ in range(3))
    if not right:
        raise Unreadable("its checksum is not the one that its item states")


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, changed: int) -> str:
    """Multihash of a file as it was then."""
    with path.open("rb") as content:
        return _SHA256 + hashlib.file_digest(content, "sha256").hexdigest()


def _hash(content: bytes) -> str:
    return _SHA256 + hashlib.sha256(content).hexdigest()
