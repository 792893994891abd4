"""Made-up sample sets to learn from."""

import numpy as np
import pandas as pd

from pipeline.data.points import read_samples, write_samples
from pipeline.learn.student import Lesson
from pipeline.learn.table import stack
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import task

CROPLAND, LFMC = task("cropland"), task("lfmc")
TINY = ["--width", "8", "--dense", "8", "--features", "8", "--epochs", "8", "--lr", "0.01",
        "--batch", "32", "--threads", "1"]
SHORT = Lesson(views=20, epochs=6, batch=128)


def simulate(folder, n=120, task=CROPLAND, sensors=("s1", "s2"), name="made_up", seed=0):
    """A sample set whose target each sensor sees through noise; 24 places."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n) if task is CROPLAND else rng.uniform(50, 200, n)
    signal = (y if task is CROPLAND else (y - 125) / 50)[:, None, None]
    season = np.sin(np.arange(task.steps))[None, :, None]
    level = {"s1": (-14, 2), "s2": (0.25, 0.04), "l8": (0.25, 0.04)}
    series, bands = {}, {}
    for key in sensors:
        bands[key] = SENSORS[key].band_names
        mean, spread = level[key]
        noise = rng.normal(size=(n, task.steps, len(bands[key])))
        x = (mean + spread * (signal * season + 0.3 * noise)).astype(np.float32)
        x[rng.random((n, task.steps)) < 0.1] = np.nan
        series[key] = x
    place = np.arange(n) % 24
    samples = pd.DataFrame({
        "sample_id": [f"p{k}" for k in range(n)], "lon": 4 + 0.1 * place, "lat": 51.0,
        "group": [f"g{k}" for k in place], "y": y,
    })
    radiometry = {"s1": "sigma0", "s2": "l2a", "l8": "landsat-c2-sr"}
    write_samples(folder, samples, np.arange(task.steps) + 2020 * 12, series, task=task, name=name,
                  licence="CC0-1.0", label_column="y", bands=bands,
                  radiometry={k: radiometry[k] for k in sensors})
    return folder


def table_of(folder, sensors=("s1", "s2"), task=CROPLAND):
    return stack([read_samples(folder, task, sensors)], task, sensors)
