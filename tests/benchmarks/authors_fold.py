"""One LFMC fold of the authors' published MDiCo, on one thread, by their own functions.

    python authors_fold.py CHECKOUT FOLD.npz FOUND.npz

CHECKOUT is a clone of github.com/fmenat/MDiCo, FOLD what ``tests.benchmarks.training`` writes. The
interpreter needs their packages: torch, pytorch-lightning, pytorch-metric-learning, xarray, PyYAML.
Their settings file is taken as it is, but for ``max_epochs``: it says 2 and "increase this". Three
things stand in for what this machine lacks: an empty ``torchvision`` where it is not installed
(only image encoders use it), the CPU where the code says ``accelerator="gpu"``, and a
``torch.load`` that unpickles a checkpoint as torch did before 2.6.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import resource
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

MODALITIES = ("S1", "S1Ind", "S2", "S2Ind")  # their names; their "S2" holds Landsat 8


def stand_ins() -> None:
    """Put the three things in place."""
    import pytorch_lightning
    import torch

    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # the first one imports torch._dynamo
    if importlib.util.find_spec("torchvision") is None:
        for name in ("torchvision", "torchvision.models"):
            sys.modules[name] = types.ModuleType(name)
    own = pytorch_lightning.Trainer

    def trainer(**settings: Any) -> Any:
        return own(**{**settings, "accelerator": "cpu"})

    pytorch_lightning.Trainer = trainer
    torch.load = partial(torch.load, weights_only=False)


def theirs(checkout: Path, module: str) -> Any:
    """A module of their package, which is called ``code`` as one of Python's own is."""
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
        sys.modules.pop("code", None)
    return importlib.import_module(f"code.{module}")


def dataset(checkout: Path, fold: Any, settings: dict[str, Any]) -> Any:
    """Their data structure in memory, with statistics of all rows as their files have them."""
    import xarray as xr

    ids = np.arange(len(fold["target"]))
    arrays = {m: xr.DataArray(fold[m], dims=("identifier", f"{m}-D1", f"{m}-D2"))
              for m in MODALITIES}
    arrays["target"] = xr.DataArray(fold["target"][:, None], dims=("identifier", "dim_target"))
    arrays["train_mask"] = xr.DataArray(np.ones(len(ids), bool), dims="identifier")
    whole = xr.Dataset(arrays, coords={"identifier": ids},
                       attrs={"view_names": list(MODALITIES), "target_names": ["lfmc"]})
    made = theirs(checkout, "datasets.utils").xray_to_datamodalities(whole)
    made.stats_xarray = xr.Dataset({
        f"{m}-{name}": (f"{m}-D2", measure(fold[m], axis=(0, 1)))
        for m in MODALITIES
        for name, measure in (("mean", np.nanmean), ("std", np.nanstd),
                              ("min", np.nanmin), ("max", np.nanmax))
    })
    made.set_val_mask(list(np.flatnonzero(fold["test"])))
    made.set_additional_info(modality_names=list(settings["architecture"]["encoders"]),
                             **settings["experiment"]["preprocess"])
    return made


def cpu_seconds() -> tuple[float, float]:
    """Of this process, and of its finished children (the workers of their data loaders)."""
    found = []
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        found.append(used.ru_utime + used.ru_stime)
    return found[0], found[1]


def main(checkout: Path, given: Path, found: Path) -> None:
    """Train and predict the fold; times are of that alone, not of imports."""
    import yaml

    stand_ins()
    fold = np.load(given)
    settings = yaml.safe_load((checkout / "config" / "lfmc_full.yaml").read_text())
    settings["training"]["max_epochs"] = int(fold["epochs"])
    settings["training"].setdefault("loss_args", {"name": "mse"})  # as their train.py does
    settings["output_dir_folder"] = str(found.parent / "authors")
    theirs(checkout, "models.utils")
    learn = theirs(checkout, "training.learn_pipeline")
    loader = theirs(checkout, "datasets.utils").create_dataloader
    import pytorch_lightning

    pytorch_lightning.seed_everything(int(fold["seed"]))
    os.chdir(found.parent)  # Lightning writes its logs where it runs
    start = cpu_seconds()
    train = dataset(checkout, fold, settings)
    test = copy.deepcopy(train)
    test.set_data_mode(train=False)
    method, trainer = learn.colearn_train(train, val_data=test, **settings)
    size = settings["training"]["batch_size"]
    said = method.transform(loader(test, batch_size=size, train=False))["modalities:prediction"]
    own, workers = (b - a for a, b in zip(start, cpu_seconds(), strict=True))
    np.savez(found, own=own, workers=workers, epochs=trainer.current_epoch,
             rows=np.array(test.get_all_identifiers()),
             **dict(zip(("s1", "l8"), (v[:, 0] for v in said.values()), strict=True)))


if __name__ == "__main__":
    main(*(Path(a).resolve() for a in sys.argv[1:4]))
