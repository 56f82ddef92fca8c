"""What readers of recordings share."""

from collections.abc import Sequence

import numpy as np

from heimdall_lab.core.units import ADC_MAX


def transmitter_position(transmitter: Sequence[float] | None) -> tuple[float, float, float]:
    """Complete and check a position given by the user; NaN where there is none."""
    if transmitter is None:
        return np.nan, np.nan, np.nan
    if len(transmitter) not in (2, 3):
        raise ValueError(
            f"transmitter is {tuple(transmitter)}; give (latitude, longitude) or (latitude, longitude, altitude)"
        )
    latitude, longitude, altitude = (*map(float, transmitter), 0.0)[:3]
    if not (abs(latitude) <= 90 and abs(longitude) <= 180 and np.isfinite(altitude)):
        raise ValueError(
            f"transmitter is at ({latitude}, {longitude}, {altitude}); "
            "give latitude within ±90°, longitude within ±180° and a finite altitude in metres"
        )
    return latitude, longitude, altitude


def quantise(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale each window of complex (W, N) to the int16 range: (W, 2, N) int16 and the full scale (W,), its peak.

    The caller decides what 1 √mW is; windows of zeros have a full scale of 1.
    """
    parts = np.stack([windows.real, windows.imag], axis=1)  # (W, 2, N)
    peak = np.abs(parts).max(axis=(1, 2))
    full_scale = np.where(peak > 0.0, peak, 1.0)
    return np.rint(parts / full_scale[:, None, None] * ADC_MAX).astype(np.int16), full_scale
