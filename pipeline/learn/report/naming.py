"""What tables and figures call methods, ablations, sensors and encoders (the paper's words)."""

from __future__ import annotations

from models.registry import METHODS
from pipeline.learn.fit import FUSED
from pipeline.learn.recipe import Row

_FUSION, _MISSING = "Multi-modal fusion", "Fusion with missing modalities"
_CO_LEARNING, _EO = "Multi-modal co-learning", "(EO) "

# method -> title and field, as in Tables 2 to 5; * = based on pre-training
_METHODS = {
    "mmgf": ("MMGF", _FUSION),
    "inputfu": ("InputFu", _FUSION),
    "omnisat": ("OmniSat*", _FUSION),
    "individual": ("Individual", "Unimodal learning"),
    "embracenet": ("EmbraceNet", _MISSING),
    "shaspec": ("ShaSpec", _MISSING),
    "decur": ("DeCuR*", _CO_LEARNING),
    "dml": ("DML", _CO_LEARNING),
    "discom-kd": ("DisCoM-KD", "Cross-modal distillation"),
    "anysat": ("AnySat*", _EO + _MISSING),
    "foundation": ("Foundation features*", "Frozen features, linear head"),
    "fmoddrop": ("FModDrop", _EO + _MISSING),
    "fcom-av": ("FCoM-av", _EO + _MISSING),
    "esensi": ("ESensI", _EO + _CO_LEARNING),
    "mdico": ("MDiCo", _CO_LEARNING),
    "extra-trees": ("Extra-trees", "Trees, one sensor"),
    "gradient-boosting": ("Gradient boosting", "Trees, one sensor"),
    "no-satellite": ("No satellite", "Extra-trees, season and place alone"),
}
# Tables 6 and 7
_VARIANTS = {
    "mdico-without-contrastive": "w/o contrastive loss",
    "mdico-without-modality": "w/o modality loss",
    "mdico-without-auxiliary": "w/o auxiliary loss",
    "mdico-without-unused": "w/o unused features",
    "mdico-shared-encoders": "shared encoders",
    "mdico-unpaired": "unpaired data",
    "mdico-uncertainty": "weighted loss",
    "mdico-only-shared": "shared features",
    "mdico-only-specific": "specific features",
}
_SENSORS = {"s1": "Sentinel-1", "s2": "Sentinel-2", "l8": "Landsat 8", "aerial": "Aerial",
            FUSED: "All sensors"}
_ENCODERS = {"tempcnn": "TempCNN", "mlp": "MLP", "lstm": "LSTM", "transformer": "Transformer",
             "convtran": "ConvTran"}


def method_title(row: Row) -> str:
    """Method and switches, e.g. ``MDiCo + season``."""
    if row.method in _VARIANTS:
        title = f"→ {_VARIANTS[row.method]}"
    else:
        title = _METHODS.get(row.method, (_own(row.method, "TITLE") or row.method, ""))[0]
    return " + ".join([title, *row.switches])


def field_title(row: Row) -> str:
    """Field of a method; one that the paper does not have may bring its own ``FIELD``."""
    if row.method in _VARIANTS:
        return "Ablation of MDiCo"
    return _METHODS.get(row.method, ("", _own(row.method, "FIELD")))[1]


def sensor_title(key: str) -> str:
    """A sensor as the paper writes it."""
    return _SENSORS.get(key, key)


def encoder_title(key: str) -> str:
    """An encoder as the paper writes it."""
    return _ENCODERS.get(key, key)


def _own(method: str, attribute: str) -> str:
    return str(getattr(METHODS.get(method), attribute, ""))
