"""Properties and assets of items, per sensor, as Planetary Computer names and spells them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from odc.geo.geobox import GeoBox

from pipeline.sandbox.geo import epsg_of, mgrs_tile, utm_transform
from pipeline.sandbox.params import SandboxParams
from pipeline.sandbox.schedule import Product, absolute_orbit
from pipeline.sandbox.spectra import BAND_PASS
from pipeline.sandbox.weather import sun

# canonical name -> (asset key, file suffix, STAC common name)
L8_ASSETS = {
    "blue": ("blue", "SR_B2", "blue"), "green": ("green", "SR_B3", "green"),
    "red": ("red", "SR_B4", "red"), "nir": ("nir08", "SR_B5", "nir08"),
    "swir16": ("swir16", "SR_B6", "swir16"), "swir22": ("swir22", "SR_B7", "swir22"),
}
S2_COMMON = {"B02": "blue", "B03": "green", "B04": "red", "B05": "rededge", "B06": "rededge",
             "B07": "rededge", "B08": "nir", "B8A": "rededge", "B11": "swir16", "B12": "swir22"}
PropertiesAndExtensions = tuple[dict[str, Any], Sequence[str]]
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def compact(when: datetime) -> str:
    """Time as file names carry it."""
    return when.strftime("%Y%m%dT%H%M%S")


def iso(when: datetime) -> str:
    """Time as item properties carry it."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def item_id(p: Product, grid: GeoBox) -> str:
    """Id of an item, as the archive spells it."""
    if p.sensor == "s1":
        orbit = absolute_orbit(p)
        start, end = compact(p.when), compact(p.when + timedelta(seconds=25))
        return f"S1A_IW_GRDH_1SDV_{start}_{end}_{orbit:06d}_{datatake(p):06X}_rtc"
    if p.sensor == "s2":
        name = f"S2{p.platform[-1]}_MSIL2A_{compact(p.when)}_R{p.orbit:03d}"
        return f"{name}_T{mgrs_tile(p.zone, grid)}_{compact(p.made)}"
    code = {"landsat-7": "LE07", "landsat-8": "LC08", "landsat-9": "LC09"}[p.platform]
    return f"{code}_L2SP_{p.orbit:03d}030_{p.when:%Y%m%d}_02_T1"


def datatake(p: Product) -> int:
    """A made-up Sentinel-1 data-take number, the same for all slices of a pass."""
    return (absolute_orbit(p) * 2579) % 0xFFFFFF


def projection(grid: GeoBox, pixel_m: int) -> dict[str, Any]:
    """``proj:shape`` and ``proj:transform`` of the scene at a pixel size."""
    n = pixel_m // 10
    return {"proj:shape": [grid.shape[0] // n, grid.shape[1] // n],
            "proj:transform": list(utm_transform(grid, pixel_m))[:6]}


def s1_assets() -> dict[str, Any]:
    """Assets of a Sentinel-1 RTC item."""
    found = {}
    for pol, far in (("vh", "horizontal"), ("vv", "vertical")):
        found[pol] = {
            "href": f"./iw-{pol}.rtc.tiff", "type": COG, "roles": ["data"],
            "title": f"{pol.upper()}: vertical transmit, {far} receive",
            "description": f"Simulated terrain-corrected gamma naught, {far} receive.",
            "raster:bands": [
                {"nodata": -32768, "data_type": "float32", "spatial_resolution": 10.0}],
        }
    return found


def s1_properties(
    params: SandboxParams, p: Product, grid: GeoBox, cover: Mapping[str, float]
) -> PropertiesAndExtensions:
    """Properties of a Sentinel-1 RTC item, and its extensions."""
    end = p.when + timedelta(seconds=25)
    place = projection(grid, 10)
    return {
        "datetime": iso(p.when + (end - p.when) / 2),
        "start_datetime": str(p.when), "end_datetime": str(end),
        "platform": p.platform, "constellation": "Sentinel-1",
        "s1:shape": place["proj:shape"][::-1], "s1:resolution": "high",
        "s1:datatake_id": str(datatake(p)),
        "s1:orbit_source": "RESORB", "s1:slice_number": str(7 + p.zone % 2),
        "s1:total_slices": "19", "s1:processing_level": "1", "s1:product_timeliness": "Fast-24h",
        "s1:instrument_configuration_ID": "7",
        "proj:bbox": list(grid.boundingbox.bbox), "proj:epsg": epsg_of(grid),
        "proj:shape": place["proj:shape"], "proj:transform": [*place["proj:transform"], 0, 0, 1],
        "sar:looks_range": 5, "sar:looks_azimuth": 1, "sar:looks_equivalent_number": 4.4,
        "sar:product_type": "GRD", "sar:polarizations": ["VV", "VH"], "sar:frequency_band": "C",
        "sar:instrument_mode": "IW", "sar:center_frequency": 5.405, "sar:resolution_range": 20,
        "sar:resolution_azimuth": 22, "sar:pixel_spacing_range": 10,
        "sar:pixel_spacing_azimuth": 10, "sar:observation_direction": "right",
        "sat:orbit_state": "ascending" if p.ascending else "descending",
        "sat:absolute_orbit": absolute_orbit(p), "sat:relative_orbit": p.orbit,
        "sat:platform_international_designator": "2014-016A",
    }, ("sar/v1.0.0", "sat/v1.0.0", "projection/v1.1.0", "file/v2.0.0", "raster/v1.1.0")


def s2_assets(p: Product, grid: GeoBox, pixel_m: Mapping[str, int]) -> dict[str, Any]:
    """Assets of a Sentinel-2 L2A item.

    Args:
        p: what was acquired.
        grid: 10 m grid of the tile.
        pixel_m: pixel size of each band written, ``SCL`` among them.
    """
    found = {}
    for band, size in pixel_m.items():
        asset: dict[str, Any] = {
            "href": f"./T{mgrs_tile(p.zone, grid)}_{compact(p.when)}_{band}_{size}m.tif",
            "proj:bbox": list(grid.boundingbox.bbox), **projection(grid, size), "gsd": float(size),
            "type": COG, "roles": ["data"], "title": f"{band} - {size}m",
        }
        if band == "SCL":
            asset["title"] = "Scene classification map (SCL)"
        else:
            centre, width = BAND_PASS["s2"][band]
            asset["eo:bands"] = [{"name": band, "common_name": S2_COMMON[band],
                                  "description": band, "center_wavelength": centre,
                                  "full_width_half_max": width}]
        found[band] = asset
    return found


def s2_properties(
    params: SandboxParams, p: Product, grid: GeoBox, cover: Mapping[str, float]
) -> PropertiesAndExtensions:
    """Properties of a Sentinel-2 L2A item, and its extensions."""
    tile, made, taken = mgrs_tile(p.zone, grid), compact(p.made), compact(p.when)
    name, letter = f"N{p.baseline}", p.platform[-1]
    elevation, azimuth = sun(params.lat, p.when)
    distance = 1 + 0.0167 * math.cos(2 * math.pi * (p.when.timetuple().tm_yday - 3) / 365.25)
    granule = f"S2{letter}_OPER_MSI_L2A_{{}}_MSFT_{made}"
    shares = {
        "water": 6, "snow_ice": 11, "vegetation": 4, "thin_cirrus": 10, "cloud_shadow": 3,
        "unclassified": 7, "dark_features": 2, "not_vegetated": 5, "high_proba_clouds": 9,
        "medium_proba_clouds": 8, "nodata_pixel": 0, "saturated_defective_pixel": 1,
    }
    return {
        "datetime": iso(p.when), "platform": p.platform, "constellation": "Sentinel 2",
        "instruments": ["msi"], "proj:epsg": epsg_of(grid),
        "eo:cloud_cover": round(cover["cloud"], 6),
        "sat:orbit_state": "descending", "sat:relative_orbit": p.orbit,
        "s2:mgrs_tile": tile, "s2:granule_id": f"{granule.format('TL')}_A037185_T{tile}_{name}",
        "s2:datatake_id": f"GS2{letter}_{taken}_037185_{name}",
        "s2:datastrip_id": f"{granule.format('DS')}_S{taken}_{name}",
        "s2:product_uri": f"S2{letter}_MSIL2A_{taken}_{name.replace('.', '')}_R{p.orbit:03d}"
                          f"_T{tile}_{made}.SAFE",
        "s2:product_type": "S2MSI2A", "s2:datatake_type": "INS-NOBS",
        "s2:generation_time": iso(p.made), "s2:processing_baseline": p.baseline,
        "s2:mean_solar_zenith": 90 - elevation, "s2:mean_solar_azimuth": azimuth,
        "s2:reflectance_conversion_factor": distance**2, "s2:degraded_msi_data_percentage": 0.0,
        **{f"s2:{key}_percentage": round(cover[str(code)], 6) for key, code in shares.items()},
    }, ("eo/v1.0.0", "sat/v1.0.0", "projection/v1.1.0")


def l8_assets(p: Product, grid: GeoBox) -> dict[str, Any]:
    """Assets of a Landsat Collection 2 Level-2 item."""
    stem = item_id(p, grid)
    instrument = "ETM" if p.platform == "landsat-7" else "OLI"
    found: dict[str, Any] = {}
    for band, (key, suffix, common) in L8_ASSETS.items():
        centre, width = BAND_PASS["l8"][band]
        found[key] = {
            "href": f"./{stem}_{suffix}.TIF", "type": COG, "title": f"{key} band",
            "description": f"Simulated {key} surface reflectance",
            "eo:bands": [{"name": f"{instrument}_{suffix[3:]}", "center_wavelength": centre,
                          "full_width_half_max": width, "common_name": common,
                          "description": key}],
            "raster:bands": [{"scale": 2.75e-05, "nodata": 0, "offset": -0.2,
                              "data_type": "uint16", "spatial_resolution": 30}],
            "roles": ["data", "reflectance"],
        }
    found["qa_pixel"] = {
        "href": f"./{stem}_QA_PIXEL.TIF", "type": COG,
        "title": "Pixel Quality Assessment Band", "description": "Simulated QA_PIXEL",
        "classification:bitfields": _bitfields(),
        "raster:bands": [{"unit": "bit index", "nodata": 1, "data_type": "uint16",
                          "spatial_resolution": 30}],
        "roles": ["cloud", "cloud-shadow", "snow-ice", "water-mask"],
    }
    return found


def _bitfields() -> list[dict[str, Any]]:
    single = ("fill", "dilated_cloud", "cirrus", "cloud", "cloud_shadow", "snow", "clear", "water")
    double = ("cloud", "cloud_shadow", "snow", "cirrus")
    fields = [(name, 1, k) for k, name in enumerate(single)]
    fields += [(f"{name}_confidence", 2, 8 + 2 * k) for k, name in enumerate(double)]
    levels = {1: ("no", "yes"), 2: ("not_set", "low", "medium", "high")}
    return [
        {"name": name, "length": length, "offset": offset, "description": name.replace("_", " "),
         "classes": [{"name": level, "value": v, "description": level}
                     for v, level in enumerate(levels[length])]}
        for name, length, offset in fields
    ]


def l8_properties(
    params: SandboxParams, p: Product, grid: GeoBox, cover: Mapping[str, float]
) -> PropertiesAndExtensions:
    """Properties of a Landsat Collection 2 item, and its extensions."""
    elevation, azimuth = sun(params.lat, p.when)
    etm = p.platform == "landsat-7"
    code = {"landsat-7": "LE7", "landsat-8": "LC8", "landsat-9": "LC9"}[p.platform]
    return {
        "gsd": 30, "created": iso(p.made), "sci:doi": "10.5066/P9C7I13B" if etm
        else "10.5066/P9OGBGM6", "datetime": iso(p.when), "platform": p.platform,
        "proj:epsg": epsg_of(grid), **projection(grid, 30),
        "description": "Landsat Collection 2 Level-2",
        "instruments": ["etm+"] if etm else ["oli", "tirs"],
        "eo:cloud_cover": round(cover["cloud"], 2), "view:off_nadir": 0,
        "view:sun_azimuth": azimuth, "view:sun_elevation": elevation,
        "landsat:wrs_row": "030", "landsat:wrs_path": f"{p.orbit:03d}", "landsat:wrs_type": "2",
        "landsat:scene_id": f"{code}{p.orbit:03d}030{p.when:%Y%j}LGN00",
        "landsat:correction": "L2SP", "landsat:cloud_cover_land": round(cover["cloud"], 2),
        "landsat:collection_number": "02", "landsat:collection_category": "T1",
    }, ("raster/v1.1.0", "eo/v1.0.0", "view/v1.0.0", "projection/v1.1.0",
        "https://landsat.usgs.gov/stac/landsat-extension/v1.1.1/schema.json",
        "classification/v1.0.0", "scientific/v1.0.0")
