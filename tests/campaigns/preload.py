"""What the server of forks imports once, for all runs. It must start no thread."""

import threading

import matplotlib.backends.backend_agg
import odc.stac
import PIL.Image
import rasterio.shutil
import rio_cogeo.cogeo
import scipy.ndimage
import zarr.codecs
from tqdm.auto import tqdm

import pipeline.map
import pipeline.mapping

# the one that it makes for itself is a semaphore of the system, which a killed process leaves
tqdm.set_lock(threading.RLock())

__all__ = ["PIL", "matplotlib", "odc", "pipeline", "rasterio", "rio_cogeo", "scipy", "zarr"]
