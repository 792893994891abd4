"""Wall-to-wall maps from whichever satellite sensor is there: the notebook's API.

>>> import pipeline as pl
>>> cube = pl.open_cube("aoi/demo.geojson", "s1", "2023-10")      # doctest: +SKIP
>>> maps = pl.map_area("aoi/demo.geojson", "s1")                  # doctest: +SKIP
"""

from typing import Any

__all__ = ["map_area", "open_cube"]


def __getattr__(name: str) -> Any:
    # loaded when first used: the command lines import this package, too, and start faster so
    if name in __all__:
        from pipeline import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
