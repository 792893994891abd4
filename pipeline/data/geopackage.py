"""GeoPackages come from anywhere: what may be opened as one."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from pipeline.spec.errors import BadRequest

_SQLITE = b"SQLite format 3\0"


def check_geopackage(path: Path) -> None:
    """Refuse what is not a GeoPackage of plain tables.

    GDAL opens a file by its content, whatever its name: a virtual format would read other files,
    and addresses, too. The rows of a view are those of a program, which need not come to an end.

    Raises:
        BadRequest: it is no such file.
    """
    kinds = "SELECT type, sql FROM sqlite_master WHERE lower(name) IN (" \
            "SELECT lower(table_name) FROM gpkg_contents)"
    try:
        with path.open("rb") as file:
            start = file.read(len(_SQLITE))
        if start != _SQLITE:
            raise ValueError("it is no GeoPackage")
        # beside a database that another program has open SQLite would write an index
        how = "mode=ro" if os.access(path.parent, os.W_OK) else "immutable=1"
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True)) as database:
            made = database.execute(kinds).fetchall()
    except (OSError, ValueError, sqlite3.Error) as error:
        raise BadRequest("the file cannot be read", got=f"{path}: {error}",
                         allowed="GeoJSON or GeoPackage") from None
    for kind, sql in made:
        if kind == "view" or str(sql).upper().startswith("CREATE VIRTUAL"):
            raise BadRequest("the file has a view in a table's place", got=str(path),
                             then="export the layer to a file of its own")
