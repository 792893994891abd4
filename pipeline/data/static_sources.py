"""Archives of what does not change: elevation and land cover. Rows of the table ``data.sources``.

A row's ``sensor`` is the layer (``spec.context.LAYERS``), which is also its only band.
"""

from __future__ import annotations

import dataclasses

from pipeline.spec.source import Source

_PUBLIC = (
    # Copernicus DEM GLO-30, a surface model: metres above the geoid EGM2008, one degree a tile.
    # Planetary Computer and Earth Search publish the same files; the token is for the former's.
    Source(
        key="copernicus/cop-dem-glo-30", sensor="dem", collection="cop-dem-glo-30",
        assets={"dem": "data"}, unit="m", radiometry="egm2008", nodata=-32767,
        absent=("sandbox:seed",), signer="planetary-computer",
    ),
    # ESA WorldCover 10 m, three degrees a tile, 2020 (v100) and 2021 (v200): the newer is read
    Source(
        key="esa/esa-worldcover", sensor="landcover", collection="esa-worldcover",
        assets={"landcover": "map"}, unit="class", radiometry="worldcover", nodata=0,
        absent=("sandbox:seed",), signer="planetary-computer",
    ),
)

_SANDBOX = tuple(
    dataclasses.replace(row, key=f"sandbox/{row.collection}", signer="",
                        present=("sandbox:seed",), absent=())
    for row in _PUBLIC
)

STATIC_SOURCES: tuple[Source, ...] = (*_SANDBOX, *_PUBLIC)
