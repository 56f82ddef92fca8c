"""The GPU's kernels and their launches, executed on the CPU: a C++ compiler takes the same source, and a stand-in for
CuPy keeps "device" arrays in ordinary memory. What only a GPU can show is tested where one answers."""

import ctypes
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from device import Device, namespace

import heimdall_lab as hl
from heimdall_lab.core import arrays
from heimdall_lab.simulation import receiver_cuda, synthesis

COMPILER = shutil.which("c++")
C_TYPES = {np.int64: ctypes.c_longlong, np.int32: ctypes.c_int, np.uint32: ctypes.c_uint}
PRELUDE = """
#include <cmath>
#define __device__
#define __global__
static struct { unsigned x; } blockIdx, blockDim, threadIdx;
"""
DRIVER = """
extern "C" void run_{name}(unsigned grid, unsigned threads, {parameters}) {{
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) {name}({arguments});
}}
"""
PHYSICS = {
    "plain": {},
    "everything": {
        "geometry.transmitter_speed_max_m_s": 100.0,
        "channel.fading": "rician",
        "channel.multipath_taps_min": 1,
        "channel.multipath_taps_max": 3,
        "channel.nlos_ratio": 0.5,
        "channel.frequency_drift_max_hz_per_s": 20.0,
        "max_receivers": 9,
    },
    "recordings": {
        "recording": {"emissions": 3, "references": 1, "frequency_span_hz": 10e6},
        "channel": {"clock": "none", "one_crystal": True, "clock_rate_max_ppm": 20.0, "clock_adev": "tcxo"},
        "signal.sample_rate_hz": 200e3,
    },
    "upsampled": {"signal.sample_rate_hz": 210e3, "signal.duration_s": 0.010005},
}


class OutOfMemoryError(Exception):
    pass


class StandIn:
    """As much of CuPy as the package uses; allocations above ``limit`` bytes fail."""

    def __init__(self, folder, limit: float = float("inf")):
        self.folder, self.limit, self.launches = folder, limit, []
        self.cuda = SimpleNamespace(memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError))

    def asarray(self, values: np.ndarray) -> Device:
        return np.array(values).view(Device)

    def empty(self, shape, dtype) -> Device:
        if np.prod(shape) * np.dtype(dtype).itemsize > self.limit:
            raise OutOfMemoryError("out of memory")
        return np.zeros(shape, dtype).view(Device)

    def get_default_memory_pool(self) -> SimpleNamespace:
        return SimpleNamespace(free_all_blocks=lambda: None)

    def RawModule(self, code: str, options: tuple[str, ...]) -> SimpleNamespace:
        assert "--fmad=false" in options
        source, library = self.folder / "channel.cpp", self.folder / "channel.so"
        drivers = [
            DRIVER.format(
                name=name, parameters=parameters, arguments=", ".join(re.findall(r"(\w+)(?:,|$)", parameters))
            )
            for name, parameters in re.findall(r"__global__ void (\w+)\(([^)]*)\)", code)
        ]
        source.write_text(PRELUDE + code + "".join(drivers))
        flags = ["-O2", "-ffp-contract=off", "-shared", "-fPIC", "-o", str(library)]
        subprocess.run([str(COMPILER), *flags, str(source)], check=True)
        loaded = ctypes.CDLL(str(library))

        def function(name: str):
            def launch(grid, threads, arguments) -> None:
                converted = [
                    ctypes.c_void_p(a.ctypes.data) if isinstance(a, Device) else C_TYPES[type(a)](a) for a in arguments
                ]
                self.launches.append(name)
                getattr(loaded, f"run_{name}")(ctypes.c_uint(*grid), ctypes.c_uint(*threads), *converted)

            return launch

        return SimpleNamespace(get_function=function)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Make backend "cupy" the stand-in."""
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    module = StandIn(tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", namespace())
    monkeypatch.setattr(synthesis, "backend_namespace", lambda backend: module if backend == "cupy" else np)
    return module


def config(physics: str, **overrides) -> hl.Config:
    small = {"data_type": "iq_raw", "signal.duration_s": 0.02, "num_samples": 3}
    return hl.preset("uhf_mixed", **(small | PHYSICS[physics] | overrides))


@pytest.mark.parametrize("physics", PHYSICS)
def test_kernels_give_the_same_samples_as_the_cpu(physics, stand_in):
    samples = np.array([0, 5, 4_000_000_000])
    expected, rejections = synthesis.synthesize(config(physics), samples, "numpy")
    found, found_rejections = synthesis.synthesize(config(physics), samples, "cupy")
    assert stand_in.launches == ["upsample", "receive"]
    assert found_rejections == rejections
    assert np.abs(found.iq.values.astype(int) - expected.iq.values.astype(int)).max() == 0
    assert found.identical(expected)  # truth and attributes too
    assert (found.iq.std("time") > 100).where(found.receiver_present, True).all()


def test_out_of_memory_halves_the_scenes_and_goes_on(stand_in):
    settings = config("plain", num_samples=5)
    expected, _ = synthesis.synthesize(settings, np.arange(5), "numpy")
    stand_in.limit = 2.1 * expected.iq[0].nbytes
    found, _ = synthesis.synthesize(settings, np.arange(5), "cupy")
    assert stand_in.launches.count("receive") == 3  # 5 scenes → 2, 3 → 2, 1, 2
    assert found.identical(expected)


def test_a_gpu_that_cannot_hold_one_scene_is_an_error_with_a_remedy(stand_in):
    stand_in.limit = 1000
    with pytest.raises(MemoryError, match=r"backend: 'cupy' has no memory for one scene.*'numpy'"):
        synthesis.synthesize(config("plain"), np.arange(2), "cupy")


def test_constants_of_the_kernels_are_those_of_the_package():
    from heimdall_lab.core import interpolation

    source = (receiver_cuda.resources.files("heimdall_lab.simulation") / "receiver.cu").read_text()
    assert f"#define TAPS {interpolation.TAPS}\n" in source
    assert f"#define PHASES {interpolation.PHASES}\n" in source
    assert f"#define LEAD {interpolation.LEAD}\n" in source


@pytest.mark.parametrize("physics", PHYSICS)
def test_a_gpu_gives_the_same_samples_as_the_cpu(physics):
    try:
        arrays.backend_namespace("cupy")
    except ValueError as error:
        pytest.skip(str(error))
    expected, _ = synthesis.synthesize(config(physics), np.arange(3), "numpy")
    found, _ = synthesis.synthesize(config(physics), np.arange(3), "cupy")
    assert np.abs(found.iq.values.astype(int) - expected.iq.values.astype(int)).max() <= 1
    assert found.drop_vars("iq").identical(expected.drop_vars("iq"))
