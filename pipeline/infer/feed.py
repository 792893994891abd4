"""Batches of one shape through a branch of a network, on a CPU or a GPU.

One shape, because kernels choose their summation order by shape: a pixel's value does not depend on
the pixels that it came with.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch

from models.engine import Branch
from pipeline.spec.errors import BadRequest

BATCH = 1024  # pixels on a CPU: their activations stay in its cache
GPU_BATCH = 1 << 16  # pixels on a GPU at most: enough for all of its cores
_LEAST = 1 << 10
_SLOTS = 2  # batches on their way on a GPU: one is copied while the other is computed
_SHARE = 0.8  # of the free memory of a GPU

Made = TypeVar("Made")


class Feed:
    """Runs a branch on any number of inputs; threads may call it at once.

    Args:
        branch: of ``models.engine``, on ``device``.
        shape: (T, C) of an input.
        device: where.

    Raises:
        BadRequest: not even a small batch fits into the GPU's memory.
    """

    def __init__(self, branch: Branch, shape: tuple[int, int], device: torch.device) -> None:
        self.branch, self.shape, self.device = branch, shape, device
        self.lock = threading.Lock() if device.type == "cuda" else contextlib.nullcontext()
        self.batch, self.slots = BATCH, list[_Slot]()
        if device.type == "cuda":
            self._fit(largest(_LEAST, lambda _: _gpu_batch(branch, shape, device))[1])

    @property
    def block(self) -> int:
        """How many inputs to give at once: several batches, on a CPU still in its cache."""
        return 4 * self.batch

    def __call__(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, T, C) float32 -> (N, K) outputs and (N,) dissimilarity index, float32.

        Quickest where the inputs are a view of [T, C, N].
        """
        if not len(inputs):
            return np.empty((0, 1), np.float32), np.empty(0, np.float32)
        with self.lock, torch.inference_mode():
            while (parts := self._tried(inputs)) is None:
                self._fit(self.batch // 2)
        outputs, index = (np.concatenate(column) for column in zip(*parts, strict=True))
        return outputs, index

    def _tried(self, inputs: np.ndarray) -> list[list[np.ndarray]] | None:
        """All parts; None where a neighbour has taken the memory that was free: only when this has
        returned does nothing, the error's traceback neither, hold the slots that are to go."""
        try:
            return list(self._parts(_pixel_by_pixel(inputs)))
        except torch.cuda.OutOfMemoryError:
            return None

    def _parts(self, inputs: torch.Tensor) -> Iterator[list[np.ndarray]]:
        batches = range(0, len(inputs), self.batch)
        if not self.slots:
            for start in batches:
                batch, n = self._padded(inputs[start : start + self.batch])
                yield [part[:n].numpy() for part in self.branch(batch)]
            return
        waiting: list[tuple[_Slot, int]] = []
        for k, start in enumerate(batches):
            if len(waiting) == len(self.slots):
                slot, n = waiting.pop(0)
                yield slot.result(n)
            batch, n = self._padded(inputs[start : start + self.batch])
            slot = self.slots[k % len(self.slots)]
            slot.submit(batch)
            waiting.append((slot, n))
        for slot, n in waiting:
            yield slot.result(n)

    def _padded(self, part: torch.Tensor) -> tuple[torch.Tensor, int]:
        """A whole batch, and how many of its inputs are meant."""
        n = len(part)
        if n < self.batch:
            part = torch.cat([part, part.new_zeros(self.batch - n, *self.shape)])
        return part, n

    def _fit(self, batch: int) -> None:
        """Set up slots of that batch, or of the largest half, quarter... that fits."""
        self.slots = []
        self.batch, self.slots = largest(
            batch, lambda n: [_Slot(self.branch, (n, *self.shape), self.device)
                              for _ in range(_SLOTS)])


class _Slot:
    """One batch on its way: copied in, computed, copied out, on a stream of its own, so that the
    copies of one slot hide behind the work of another."""

    def __init__(
        self, branch: Branch, shape: tuple[int, int, int], device: torch.device
    ) -> None:
        gpu = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if gpu else None
        self.staged = torch.zeros(shape, pin_memory=gpu)
        with torch.inference_mode():
            with self._turn():
                self.x = self.staged.to(device, copy=True)
            self.replay, made = _record(branch, self.x, self.stream)
        self.made = made
        self.found = [torch.empty(part.shape, pin_memory=gpu) for part in made]

    def _turn(self) -> contextlib.AbstractContextManager[None]:
        return torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext()

    def submit(self, batch: torch.Tensor) -> None:
        """Start with a batch, once the last one's ``result`` has been taken."""
        self.staged.copy_(batch)
        with self._turn():
            self.x.copy_(self.staged, non_blocking=True)
            self.replay()
            for to, part in zip(self.found, self.made, strict=True):
                to.copy_(part, non_blocking=True)

    def result(self, n: int) -> list[np.ndarray]:
        """Wait for it: the first ``n`` rows of each output."""
        if self.stream:
            self.stream.synchronize()
        return [part[:n].numpy().copy() for part in self.found]


def _record(
    branch: Branch, x: torch.Tensor, stream: torch.cuda.Stream | None
) -> tuple[Callable[[], None], tuple[torch.Tensor, ...]]:
    """What computes the branch of what is in ``x``, and the tensors it leaves the result in."""
    if stream is None:
        made = branch(x)

        def again() -> None:
            for to, part in zip(made, branch(x), strict=True):
                to.copy_(part)

        return again, made
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries choose their kernels before a graph is recorded
            branch(x)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()  # one launch for all kernels of a batch
    with torch.cuda.graph(graph, stream=stream):
        made = branch(x)
    return graph.replay, made


def largest(batch: int, make: Callable[[int], Made]) -> tuple[int, Made]:
    """What ``make`` gives for that batch, or for the largest half, quarter... that fits.

    Raises:
        BadRequest: none does.
    """
    while True:
        try:
            return batch, make(batch)
        except torch.cuda.OutOfMemoryError:
            batch //= 2
        torch.cuda.empty_cache()
        if batch < _LEAST:
            raise BadRequest("the GPU has too little free memory", got=f"{batch} pixels",
                             allowed=f"at least {_LEAST} pixels a batch",
                             then="free it, or try --device cpu") from None


def _pixel_by_pixel(inputs: np.ndarray) -> torch.Tensor:
    """Contiguous (N, T, C). PyTorch turns a matrix five times faster than NumPy does."""
    planes = inputs.transpose(1, 2, 0)
    if not planes.flags.c_contiguous:
        return torch.from_numpy(np.ascontiguousarray(inputs))
    flat = torch.from_numpy(planes.reshape(-1, len(inputs)))
    return flat.t().contiguous().view(inputs.shape)


def _gpu_batch(branch: Branch, shape: tuple[int, int], device: torch.device) -> int:
    """Largest power of two of pixels whose activations fit into the free memory, by the memory
    that a small batch takes."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.inference_mode():
        branch(torch.zeros(_LEAST, *shape, device=device))
    pixel = (torch.cuda.max_memory_allocated(device) - before) / _LEAST
    free = torch.cuda.mem_get_info(device)[0] * _SHARE / _SLOTS
    return min(GPU_BATCH, 1 << int(max(free / pixel, _LEAST)).bit_length() - 1)
