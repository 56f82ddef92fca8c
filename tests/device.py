"""A stand-in for CuPy: "device" arrays in ordinary memory that, as CuPy's, refuse to be mixed with NumPy's."""

import types

import numpy as np
import scipy.fft

CREATORS = (
    "arange asarray broadcast_to concatenate count_nonzero einsum empty eye median",
    "stack take_along_axis where zeros_like",
)


class Device(np.ndarray):
    """An array on the stand-in's device."""

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        for value in inputs:
            if type(value) is np.ndarray and value.ndim:
                raise TypeError(f"{ufunc.__name__}: an array of the CPU meets one of the device")
        plain = [np.asarray(value) if isinstance(value, Device) else value for value in inputs]
        into = {"out": tuple(np.asarray(out) for out in options["out"])} if "out" in options else {}
        result = getattr(ufunc, method)(*plain, **(options | into))
        return options["out"][0] if into else np.asarray(result).view(Device)

    def get(self) -> np.ndarray:
        return np.array(self)


Device.__module__ = "cupy"  # by which the package tells whose an array is


def _on_device(function):
    def call(*arguments, **options):
        result = function(*arguments, **options)
        return np.asarray(result).view(Device) if isinstance(result, np.ndarray | np.generic) else result

    return call


def namespace() -> types.ModuleType:
    """Make the module that stands in for cupy, to be put into sys.modules."""
    module = types.ModuleType("cupy")
    for name in dir(np):
        setattr(module, name, getattr(np, name))
    for name in " ".join(CREATORS).split():
        setattr(module, name, _on_device(getattr(np, name)))
    module.fft = types.SimpleNamespace(fft=_on_device(scipy.fft.fft))
    return module
