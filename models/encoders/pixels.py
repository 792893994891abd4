"""Series of small images as series of vectors: the one place where space is taken out of them."""

from __future__ import annotations

from torch import Tensor


def as_series(x: Tensor, channels: int) -> Tensor:
    """What a series encoder sees of a series of small images; a series stays as it is.

    The paper does not say what becomes of the 6 x 6 pixels of TreeSatAI's Sentinel-2 series. Its
    published code takes every pixel's bands as channels, and so did Table A1: its 10 077 thousand
    parameters are those of 12 * 6 * 6 = 432 channels. The mean over the pixels has 36 times less
    input, and knows nothing of a shift by a pixel. Which of the two is meant shows in the channels
    that the encoder was built for.

    Args:
        x: (N, T, C) or (N, T, C, H, W).
        channels: C for the mean over the pixels, C * H * W for the pixels side by side (band by
            band, then row by row).

    Returns:
        (N, T, channels).

    Raises:
        ValueError: x has neither number of channels.
    """
    if x.ndim == 3:
        return x
    bands, pixels = x.shape[2], x.shape[3:].numel()
    if channels == bands:
        return x.flatten(3).mean(3)
    if channels == bands * pixels:
        return x.flatten(2)
    raise ValueError(f"{bands} bands of {pixels} pixels for an encoder of {channels} channels: "
                     f"it takes {bands} (their mean) or {bands * pixels} (side by side)")
