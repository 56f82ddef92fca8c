"""Which array library a kernel runs on, and the batches, choices of rows and exponentials that kernels share."""

import importlib
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import scipy.fft

from heimdall_lab.core.text import quoted

Array = Any  # numpy.ndarray or cupy.ndarray
BACKENDS = ("auto", "numpy", "cupy")


def array_namespace(array: Array) -> Any:
    """Return the module, numpy or cupy, that an array belongs to."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def fft_namespace(array: Array) -> Any:
    """Return the Fourier transforms for an array: SciPy's for NumPy, several times as fast on short rows as NumPy's."""
    return scipy.fft if array_namespace(array) is np else array_namespace(array).fft


def backend_namespace(backend: str) -> ModuleType:
    """Return the array module of a backend; ``auto`` is CuPy where a GPU answers, else NumPy.

    ValueError if the backend is unknown, or ``cupy`` is asked for where it cannot run.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: {quoted(backend)} is unknown; choose one of {', '.join(BACKENDS)}")
    if backend == "numpy":
        return np
    try:
        cupy = importlib.import_module("cupy")
        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy raises its own CUDA errors where there is no driver
        if backend == "auto":
            return np
        raise ValueError(
            f"backend: 'cupy' cannot run here ({error}); install the 'gpu' extra on a machine with a GPU, "
            "or use backend 'numpy'"
        ) from error
    return cupy


def batch_slices(count: int, per_batch: int) -> Iterator[slice]:
    """Cut ``count`` rows into batches of ``per_batch``, at least one; the last may be shorter.

    >>> list(batch_slices(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    step = max(1, per_batch)
    return (slice(first, first + step) for first in range(0, count, step))


def where_rows(condition: Array, one: Iterable[Array], other: Iterable[Array]) -> list[Array]:
    """Take rows of arrays (N, ...) where a condition (N,) holds, else those of others, of as many dimensions each."""
    pairs = zip(one, other, strict=True)
    return [np.where(condition.reshape(-1, *[1] * (first.ndim - 1)), first, second) for first, second in pairs]


def phasor(cycles_per_step: Array, count: int, *, start: int = 0, block: int = 256) -> Array:
    """Evaluate exp(2πj · cycles · n) for n = start … start + count − 1: (..., count) complex64 of (...) float64.

    The exponent is split as n = block · a + b, so that only count / block + block exponentials are evaluated for each
    row and the rest is one complex product; the angle is reduced in float64, so long rows lose no phase.
    """
    xp = array_namespace(cycles_per_step)
    coarse_steps = start + block * xp.arange(-(-count // block))
    fine_steps = xp.arange(block)

    def exponential(steps: Array) -> Array:
        angle = 2 * np.pi * xp.mod(cycles_per_step[..., None] * steps, 1.0)
        return xp.exp(1j * angle).astype(xp.complex64)

    table = exponential(coarse_steps)[..., :, None] * exponential(fine_steps)[..., None, :]
    return table.reshape(*table.shape[:-2], -1)[..., :count]
