"""The training domain of a network: prototypes of its training features, and the threshold.

After Meyer & Pebesma 2021, doi:10.1111/2041-210X.13650 (``models.domain`` has the index itself).
Features are taken of rows as they are and as training augments them: the network learned from
series with few observations and shifted levels, so that these are inside its domain as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from models.domain import PREFIX, Domain
from pipeline.learn.augment import augmentations
from pipeline.learn.fit import Settings
from pipeline.learn.outcomes import FEWEST
from pipeline.learn.table import Tensors

PROTOTYPES = 256  # under 2 % of a network's arithmetic a pixel; 512 moved no flag in a hundred
_PAIRED = 2000  # rows whose mean distance stands for that of all
_CHUNK = 4096  # rows a forward pass


def domain_of(
    module: nn.Module, data: Tensors, sensor: str, rows: np.ndarray | Tensor, settings: Settings,
    seed: int,
) -> Domain:
    """Domain of the rows that a network learned from.

    Args:
        module: trained, with ``embed``.
        data: all rows.
        sensor: key.
        rows: (n,) numbers of the training rows that have the sensor, at least two.
        settings: of the training; give the augmentation.
        seed: of clusters and augmentation.
    """
    return domain_of_features(features_of(module, data, sensor, rows, settings, seed), seed)


def held_out_index(
    domain: Domain, module: nn.Module, data: Tensors, sensor: str, rows: np.ndarray,
    settings: Settings, seed: int,
) -> np.ndarray:
    """(2 n,) dissimilarity of rows that the network did not learn from, as they are and augmented.

    Args:
        domain: of the same network and sensor.
        module, data, sensor, settings, seed: as in ``domain_of``.
        rows: (n,) numbers of held-out rows.
    """
    z = features_of(module, data, sensor, rows, settings, seed)
    return index_of(domain, z)


def threshold(index: np.ndarray) -> float | None:
    """Largest held-out index that is no outlier: the upper whisker of a box plot (section 2.4).

    Args:
        index: (n,) dissimilarity of held-out rows of all folds.

    Returns:
        The largest value up to 1.5 interquartile ranges above the third quartile; None with fewer
        than ``FEWEST`` values, or where all are 0.
    """
    if len(index) < FEWEST:
        return None
    low, high = np.quantile(index, [0.25, 0.75])
    found = float(index[index <= high + 1.5 * (high - low)].max())
    return found if found > 0 else None


def domain_of_features(z: np.ndarray, seed: int) -> Domain:
    """Domain of (n, D) training features: themselves, or the centres of their clusters where they
    are many, and their mean distance."""
    prototypes = np.unique(z, axis=0)
    if len(prototypes) > PROTOTYPES:
        prototypes = MiniBatchKMeans(PROTOTYPES, random_state=seed, n_init=3,
                                     batch_size=2048).fit(z).cluster_centers_
    few = np.random.default_rng(seed).permutation(len(z))[:_PAIRED]
    distance = torch.pdist(torch.from_numpy(z[few]).double())
    scale = max(float(distance.mean()) if len(distance) else 0.0, 1e-12)
    return Domain(torch.from_numpy(prototypes.astype(np.float32)),
                  torch.tensor(scale, dtype=torch.float32))


def index_of(domain: Domain, z: np.ndarray) -> np.ndarray:
    """(n,) dissimilarity index of (n, D) features."""
    with torch.inference_mode():
        return domain(torch.from_numpy(z)).numpy()


def features_of(
    module: nn.Module, data: Tensors, sensor: str, rows: np.ndarray | Tensor, settings: Settings,
    seed: int,
) -> np.ndarray:
    """(2 n, D) float32 features of rows, as they are and augmented once."""
    augment = augmentations(data.cards, drop=settings.drop, jitter=settings.jitter,
                            hide=settings.hide, blur=settings.blur, haze=settings.haze)[sensor]
    generator = torch.Generator().manual_seed(seed)
    x, seen = data.inputs[sensor][rows], data.seen[sensor][rows]
    return np.concatenate([_embed(module, sensor, x),
                           _embed(module, sensor, augment(x, seen, generator))])


def domain_arrays(domains: Mapping[str, Domain]) -> dict[str, np.ndarray]:
    """Arrays of the domains for a checkpoint, by name: ``domain.<sensor>.prototypes`` ..."""
    return {f"{PREFIX}{sensor}.{name}": value.cpu().numpy()
            for sensor, domain in domains.items() for name, value in domain.state_dict().items()}


def _embed(module: nn.Module, sensor: str, x: Tensor) -> np.ndarray:
    module.eval()
    with torch.inference_mode():
        parts = [module.embed(sensor, part) for part in x.split(_CHUNK)]  # type: ignore[operator]
    return torch.cat(parts).float().cpu().numpy()
