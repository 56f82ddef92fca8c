"""Bytes that a dataset takes, and whether a disk has room for them."""

import math
import shutil
from pathlib import Path

from heimdall_lab.core.config import Config
from heimdall_lab.core.files import StoreError
from heimdall_lab.core.text import quoted, si_text
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.manifest import Manifest

_ITEM_BYTES = {"i": 2, "f": 8, "b": 1, "T": 96, "U": 96, "O": 96}  # text: a reference, and its place in the heap
_SINGLE_PRECISION = ("features", "spectrogram")
_SHARD_OVERHEAD_BYTES = 55_000  # of the netCDF library, for names, attributes and alignment of every variable


def expected_bytes(config: Config) -> int:
    """Bytes that a configuration's dataset takes on disk: never fewer than it will, and a few percent more at most.

    Examples
    --------
    >>> from heimdall_lab import preset
    >>> si_text(expected_bytes(preset("iq_production"))) + "B"
    '5.66 GB'
    """
    full, rest = divmod(config.num_samples, config.scenes_per_shard)
    return full * _shard_bytes(config, config.scenes_per_shard) + (_shard_bytes(config, rest) if rest else 0)


def check_disk_space(folder: Path, manifest: Manifest) -> int:
    """Return the bytes that the missing shards will take, at most, having checked that the file system has them.

    Raises
    ------
    StoreError
        If it has not; the message names the sizes.
    """
    config = manifest.config
    needed = expected_bytes(config) - sum(_shard_bytes(config, shard.num_samples) for shard in manifest.shards)
    kept = {shard.file for shard in manifest.shards}
    replaced = sum(path.stat().st_size for path in folder.glob("shard-*.nc") if path.name not in kept)
    free = shutil.disk_usage(folder).free
    missing = config.num_samples - manifest.num_samples
    if needed > free + replaced:
        raise StoreError(
            f"out: {quoted(folder)} needs {si_text(needed)}B for {missing} scenes, and "
            f"{si_text(free + replaced)}B are free there; make room, choose a folder on a larger disk, or lower "
            "num_samples or signal.duration_s"
        )
    return needed


def _shard_bytes(config: Config, num_samples: int) -> int:
    """Bytes of one shard, from the contract's dimensions and types."""
    sizes = {
        "sample": num_samples,
        "receiver": config.max_receivers,
        "component": 2,
        "time": config.signal.num_time,
        "echo": config.channel.multipath_taps_max,
        "feature": len(schema.FEATURES),
        "statistic": len(schema.STATISTICS),
        "frequency": schema.MEL_BANDS,
        "frame": schema.FRAMES,
    }
    stored = schema.TRUTH + schema.SIGNALS[config.data_type]
    stored += schema.STATED_POSITIONS if config.geometry.states_positions else ()
    values = sum(
        (4 if name in _SINGLE_PRECISION else _ITEM_BYTES[variable.kinds[0]])
        * math.prod(sizes[dim] for dim in variable.dims)
        for name, variable in schema.VARIABLES.items()
        if name in stored
    )
    numbers = num_samples + config.signal.num_time + sizes["frequency"] + sizes["frame"]
    texts = config.max_receivers + 2 + 2 * sizes["feature"] + sizes["statistic"]
    coordinates = _ITEM_BYTES["f"] * numbers + _ITEM_BYTES["U"] * texts
    return values + coordinates + len(config.model_dump_json()) + _SHARD_OVERHEAD_BYTES
