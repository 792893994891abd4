"""One sensor through ``transform`` of the authors' published MDiCo, on one thread.

    python authors_transform.py CHECKOUT STEPS CHANNELS WIDTH ROUNDS

CHECKOUT is a clone of github.com/fmenat/MDiCo; the interpreter needs the packages that
``authors_fold`` names. The network has one sensor and the sizes of the one beside it, with random
weights: how long it takes does not depend on them. Their code has a linear layer on the shared
features that the paper does not have, and computes the heads that only training needs. Two loaders
are timed: ready tensors in batches of 1024, which spares their code everything but the network, and
their own data set with their batch of 128, as a user has it. Prints a JSON object: pixels a second
of the CPU in each round.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from authors_fold import stand_ins, theirs  # run as a script, it lies beside

READY, OWN = 16_384, 2_048  # pixels of each loader


def main(checkout: Path, steps: int, channels: int, width: int, rounds: int) -> None:
    """Build, warm up, time."""
    stand_ins()
    import torch
    import xarray as xr

    theirs(checkout, "models.utils")
    build = theirs(checkout, "models.nn_module").create_model
    encoder = build(channels, 128, model_type="tempcnn", dropout=0.2, kernel_size=5,
                    layer_size=width, n_layers=2, seq_len=steps)
    core = build(64, None, just_base=True, model_type="linear")
    model = theirs(checkout, "models.mdico").MDiCo({"S2": encoder}, core, n_labels=2,
                                                   loss_args={"name": "mse"})
    x = np.random.default_rng(0).normal(size=(READY, steps, channels)).astype(np.float32)
    ready = [{"modalities": {"S2": part}, "target": torch.zeros(len(part), 1)}
             for part in torch.from_numpy(x).split(1024)]
    ids = np.arange(OWN)
    whole = xr.Dataset({
        "S2": xr.DataArray(x[:OWN], dims=("identifier", "S2-D1", "S2-D2")),
        "target": xr.DataArray(np.zeros((OWN, 1)), dims=("identifier", "dim_target")),
        "train_mask": xr.DataArray(np.ones(OWN, bool), dims="identifier"),
    }, coords={"identifier": ids}, attrs={"view_names": ["S2"], "target_names": ["crop"]})
    data = theirs(checkout, "datasets.utils").xray_to_datamodalities(whole)
    data.set_additional_info(modality_names=["S2"], fillnan=True, form="none")
    own = torch.utils.data.DataLoader(data, batch_size=128)  # no processes: only the CPU is counted
    found: dict[str, list[float]] = {"ready": [], "own": []}
    model.transform(ready[:1])
    for _ in range(rounds):
        for name, loader, pixels in (("ready", ready, READY), ("own", own, OWN)):
            start = time.process_time()
            model.transform(loader)
            found[name].append(pixels / (time.process_time() - start))
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *(int(a) for a in sys.argv[2:6]))
