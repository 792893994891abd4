"""A Source is one row of the table ``pipeline.data.sources``: one archive of one sensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Unit = Literal["reflectance", "linear", "dB", "dn20log10", "m", "class"]
OffsetRule = Literal["fixed", "s2-baseline", "raster-bands"]
MaskRule = Literal["scl", "landsat-c2", "landsat-c1"]


@dataclass(frozen=True)
class Source:
    """How one provider publishes one sensor. Radiometry belongs here, never to the sensor.

    Attributes:
        key: ``provider/collection``, written into manifests and tags.
        sensor: sensor key, or a layer of ``spec.context``.
        collection: STAC collection id.
        assets: canonical band name -> asset key.
        unit: what ``DN * scale + offset`` is: ``reflectance``, ``linear`` backscatter power,
            ``dB``, ``dn20log10`` (dB = 20 log10(DN) + offset), ``m`` (elevation) or ``class``
            (codes of land cover).
        scale: multiplied first.
        offset: added next (after the mask: a valid DN may become 0 or negative).
        offset_rule: ``fixed`` = scale and offset above; ``s2-baseline`` = offset applies from
            processing baseline 04.00 on; ``raster-bands`` = the asset's own
            ``raster:bands`` scale and offset.
        nodata: DN that means "no measurement".
        twos_complement: unsigned DN above 32767 are small negatives (subtract 65536).
        mask_asset: asset of the quality band; empty where the archive has none.
        mask: rule that turns the quality band into "clear".
        radiometry: what a pixel value means, matched against the checkpoint's card:
            ``gamma0-rtc``, ``sigma0``, ``l2a``, ``landsat-c2-sr``, ``landsat-c1-sr``; of layers
            their vertical datum or legend.
        present: item properties that must exist for this row to apply.
        absent: item properties that must not exist.
        equals: item properties that must have these values.
        platforms: accepted ``platform`` values (lower case); empty = any.
        signer: ``planetary-computer`` (SAS token at read time) or empty.
    """

    key: str
    sensor: str
    collection: str
    assets: Mapping[str, str]
    unit: Unit
    radiometry: str
    nodata: float
    scale: float = 1.0
    offset: float = 0.0
    offset_rule: OffsetRule = "fixed"
    twos_complement: bool = False
    mask_asset: str = ""
    mask: MaskRule | None = None
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    equals: tuple[tuple[str, object], ...] = ()
    platforms: tuple[str, ...] = ()
    signer: str = ""

    @property
    def averages(self) -> bool:
        """Whether means of the stored numbers are means of what they stand for: not of decibels,
        codes, and negatives stored as large numbers."""
        return self.unit in ("reflectance", "linear") and not self.twos_complement
