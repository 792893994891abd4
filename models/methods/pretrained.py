"""Pretrained networks as rivals: a linear head on their frozen features.

Their weights are not part of the project. A user exports the network for one sensor to TorchScript,

    torch.jit.save(torch.jit.trace(network, example), "DIR/s2.pt")

and gives DIR as the option ``weights``. ``network`` takes what every encoder here takes, the
standardised (N, T, C) or (N, T, C, H, W) of the sensor, and returns (N, embedding); dates, patch
size and the order of bands, where it needs any, are set inside it before it is traced. Reading a
TorchScript archive runs no Python of its author's choice, as ``torch.load`` of a pickle and
``torch.export.load`` may. It is still a program; take it from someone you trust.

Departure: arXiv:2510.19579 fine-tunes AnySat for each sensor (section 4.2). Here only the head
learns, with the batch normalisation without scale and shift that linear probing usually has before
it (He et al. 2022, arXiv:2111.06377, A.1).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.methods.base import EncoderFactory
from models.methods.fusion import InputFu
from models.methods.individual import Individual


class WeightsAbsent(ValueError):
    """The weights of a pretrained network are not here: its row of a table stays empty."""


class _Shared:
    """Holds a network that its module must not register, and that copies of the module share."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __deepcopy__(self, memo: Mapping[int, Any]) -> _Shared:
        return self


class Frozen(nn.Module):
    """Features of a TorchScript archive, standardised over the batches seen in training.

    The network is no part of the state: neither trained nor saved with the head.

    Args:
        path: of the archive.
        embedding: D of its output.

    Raises:
        ValueError: the file is no TorchScript archive.
    """

    def __init__(self, path: Path, embedding: int) -> None:
        super().__init__()
        self.embedding = embedding
        try:
            with warnings.catch_warnings():  # of torch.jit.load; torch.export's format is a pickle
                warnings.simplefilter("ignore", DeprecationWarning)
                network = torch.jit.load(path, map_location="cpu")
        except RuntimeError as error:
            raise ValueError(f"{path} is not a TorchScript archive: {str(error).strip()[:80]}"
                             ) from None
        self.hidden = _Shared(network.eval())
        self.norm = nn.BatchNorm1d(embedding, affine=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        """(N, T, C) or (N, T, C, H, W) of one sensor, or of each -> (N, embedding).

        Raises:
            ValueError: the network's features are of another size.
        """
        with torch.no_grad():
            z = self.hidden.network.to(inputs[0].device)(*inputs)
        if z.shape != (len(inputs[0]), self.embedding):
            raise ValueError(f"the pretrained network gives features of shape {tuple(z.shape[1:])},"
                             f" not ({self.embedding},): set the option embedding")
        return self.norm(z)


class Foundation(Individual):
    """A linear head a sensor on the frozen features of any pretrained network.

    Args:
        make_encoder: not used.
        sensors: sensor key -> channels; an archive ``SENSOR.pt`` must be there for each.
        outputs: classes or labels K, or 1 for a regression.
        features: not used.
        weights: folder of the archives.
        embedding: D of the network's output.

    Raises:
        WeightsAbsent: no folder is given, or an archive is not in it.
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {"weights": "", "embedding": 768}
    OBTAIN: ClassVar[str] = "the network's authors"

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int,
        features: int, *, weights: str, embedding: int,
    ) -> None:
        frozen = _frozen(weights, type(self).__name__, self.OBTAIN)
        super().__init__(frozen, sensors, outputs, embedding)


class AnySat(Foundation):
    """AnySat (Astruc et al. 2025, arXiv:2412.14123): its "tile" output, 768 features."""

    OBTAIN: ClassVar[str] = "https://github.com/gastruc/AnySat"


class OmniSat(InputFu):
    """OmniSat (Astruc et al. 2024, arXiv:2404.08351), a fusion reference in Table 4.

    One archive ``all.pt`` takes the sensors' inputs in the order of the table and returns the class
    token, 256 features. Arguments and errors as of ``Foundation``.
    """

    OPTIONS: ClassVar[Mapping[str, Any]] = {"weights": "", "embedding": 256}

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int,
        features: int, *, weights: str, embedding: int,
    ) -> None:
        frozen = _frozen(weights, "OmniSat", "https://github.com/gastruc/OmniSat")
        super().__init__(frozen, sensors, outputs, embedding)

    def embed_all(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Per sensor (N, T, C) or (N, T, C, H, W) -> (N, embedding)."""
        return self.encoder(*(inputs[s] for s in self.sensors))


def width_of(folder: str, method: str, inputs: Mapping[str, Tensor]) -> int:
    """D of the user's archives, from two samples of each sensor's inputs.

    Args:
        folder: of the archives.
        method: ``omnisat`` has one archive for all sensors, the others one a sensor.
        inputs: per sensor (N, T, C) or (N, T, C, H, W).

    Raises:
        WeightsAbsent: an archive is not in the folder.
        ValueError: one cannot read its sensor's inputs, or they differ in D.
    """
    some = {sensor: x[:2].cpu() for sensor, x in inputs.items()}
    jobs = {None: tuple(some.values())} if method == "omnisat" else {
        sensor: (x,) for sensor, x in some.items()}
    make, widths = _frozen(folder, method, "the network's authors"), set()
    for sensor, x in jobs.items():
        frozen = make(0, 1, sensor)
        assert isinstance(frozen, Frozen)
        try:
            with torch.no_grad():
                widths.add(int(frozen.hidden.network(*x).shape[1]))
        except (RuntimeError, IndexError, AttributeError) as error:
            raise ValueError(f"{sensor or 'all'}.pt cannot read inputs of shape "
                             f"{[tuple(part.shape[1:]) for part in x]}: "
                             f"{(str(error).strip().splitlines() or [''])[-1][:120]}") from None
    if len(widths) > 1:
        raise ValueError(f"the archives give features of {sorted(widths)} numbers, not all the "
                         "same")
    return widths.pop()


def _frozen(folder: str, title: str, obtain: str) -> EncoderFactory:
    """Stands in for the encoders: the archive of each sensor, or the one of all."""

    def make(channels: int, features: int, sensor: str | None = None) -> nn.Module:
        path = Path(folder) / f"{sensor or 'all'}.pt"
        if not folder or not path.is_file():
            raise WeightsAbsent(
                f"{title}: its weights are not here{f' ({path})' if folder else ''}; get them from "
                f"{obtain}, export the network as {path.name} (models/methods/pretrained.py says "
                "how) and give its folder as the option weights"
            )
        return Frozen(path, features)

    return make
