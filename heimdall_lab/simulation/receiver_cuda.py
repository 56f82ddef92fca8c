"""The receivers on a GPU: the kernels of ``receiver.cu``, launched through CuPy."""

from functools import lru_cache
from importlib import resources
from types import ModuleType
from typing import Any

import numpy as np

from heimdall_lab.core.interpolation import TABLE, TAPS
from heimdall_lab.core.philox import Stage, Streams, lane_word
from heimdall_lab.simulation.receiver import Links, check_waveform_length

_THREADS = 256


def receive(
    cupy: ModuleType,
    waveform: np.ndarray,
    factor: int,
    links: Links,
    streams: Streams,
    iq: np.ndarray,
    guard: int,
) -> None:
    """Fill ``iq`` as `receiver.upsample_and_receive` does, on a GPU; all arrays are NumPy's.

    The waveform (S, M) complex64 is at its own rate; receivers sample ``factor`` times faster. Where the GPU's memory
    does not hold the scenes, halves of them follow each other; MemoryError if it does not hold one scene.
    """
    try:
        _receive(cupy, waveform, factor, links, streams, iq, guard)
    except cupy.cuda.memory.OutOfMemoryError as error:
        if len(iq) == 1:
            raise MemoryError(
                f"backend: 'cupy' has no memory for one scene of {iq.nbytes / 1e6:.0f} MB ({error}); use backend "
                "'numpy', or shorten signal.duration_s"
            ) from error
    else:
        return
    cupy.get_default_memory_pool().free_all_blocks()
    middle = len(iq) // 2
    for rows in (slice(None, middle), slice(middle, None)):
        receive(cupy, waveform[rows], factor, links.select(rows), streams.select(rows), iq[rows], guard)


def _receive(
    cupy: Any, waveform: np.ndarray, factor: int, links: Links, streams: Streams, iq: np.ndarray, guard: int
) -> None:
    upsample_kernel, receive_kernel = _kernels(cupy)
    num_scenes, num_receivers, _, num_time = iq.shape
    num_planar = (waveform.shape[1] - TAPS) * factor
    check_waveform_length(links, guard, num_planar, num_time)
    table = cupy.asarray(TABLE)
    planar = cupy.empty((num_scenes, 2, num_planar), dtype=np.float32)
    integer, word = np.int64, np.uint32  # kernels take arguments of exactly these types
    parts = cupy.asarray(np.ascontiguousarray(waveform).view(np.float32))
    _launch(
        upsample_kernel,
        planar.size,
        (parts, integer(num_scenes), integer(waveform.shape[1]), np.int32(factor), table, planar),
    )

    def double(values: np.ndarray) -> Any:
        return cupy.asarray(np.ascontiguousarray(values, dtype=np.float64))

    device_iq = cupy.empty(iq.shape, dtype=np.int16)
    key = streams.key
    stage = lane_word(Stage.NOISE, 0)
    _launch(
        receive_kernel,
        num_scenes * num_receivers * -(-num_time // 2),
        (
            planar,
            integer(num_planar),
            double(links.arrival),
            double(links.arrival_rate),
            cupy.asarray(np.ascontiguousarray(links.gain).view(np.float32)),
            integer(links.gain.shape[2]),
            integer(links.gain.shape[3]),
            np.int32(links.block),
            double(links.phase),
            double(links.frequency),
            double(links.drift),
            double(links.noise_amplitude),
            double(links.full_scale),
            cupy.asarray(streams.sample),
            cupy.asarray(streams.attempt),
            word(stage),
            word(lane_word(Stage.NOISE, 1) - stage),
            word(key[0]),
            word(key[1]),
            integer(guard),
            table,
            integer(num_scenes),
            integer(num_receivers),
            integer(num_time),
            device_iq,
        ),
    )
    iq[...] = device_iq.get()


def _launch(kernel: Any, count: int, arguments: tuple[Any, ...]) -> None:
    """Run a kernel with one thread for each of ``count`` results."""
    kernel((-(-count // _THREADS),), (_THREADS,), arguments)


@lru_cache(maxsize=1)
def _kernels(cupy: Any) -> tuple[Any, Any]:
    """Compile the kernels; fused multiply-adds would round otherwise than a CPU does."""
    source = (resources.files("heimdall_lab.simulation") / "receiver.cu").read_text(encoding="utf-8")
    module = cupy.RawModule(code=source, options=("--fmad=false",))
    return module.get_function("upsample"), module.get_function("receive")
