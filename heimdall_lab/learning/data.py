"""Scenes of a dataset as batches of tensors: split, shuffled and augmented the same way when a run continues."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import dask
import lightning.pytorch as pl
import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.progress import ProgressCallback
from heimdall_lab.datasets import schema, splits
from heimdall_lab.learning import augmentation
from heimdall_lab.learning.architectures.layers import Localizer
from heimdall_lab.learning.signals_on_disk import SIGNAL_DIMS, InMemory, OnDisk
from heimdall_lab.learning.sources import Source
from heimdall_lab.localization.learned import inputs
from heimdall_lab.signals.measurements import with_measurements

_CHUNK_BYTES = 2**28  # of IQ in memory while features are measured
_CHUNK_SCENES = 512
_BLOCK, _BUFFER = 32, 64  # consecutive scenes read together, and blocks that are shuffled with each other
_STATISTICS_SCENES, _STATISTICS_SCENES_WITH_SIGNALS = 4096, 512  # most training scenes for the statistics of inputs


class Batches(Dataset[dict[str, Tensor]]):
    """Batches of one split; each is a function of the run's seed, the epoch and its number alone.

    Parameters
    ----------
    arrays : dict of str to Tensor
        Small arrays of all scenes, (S, …).
    signals : dict of str to InMemory or OnDisk
        IQ and spectrograms of all scenes.
    rows : (n,) int
        Scenes of the split.
    batch_size : int
    window : int or None
        Instants of IQ.
    augmented : bool
        Shuffle, draw windows, drop receivers and rotate the plane; else keep the order, with the middle windows.
    """

    def __init__(
        self,
        arrays: dict[str, Tensor],
        signals: dict[str, InMemory | OnDisk],
        rows: Array,
        *,
        batch_size: int,
        window: int | None,
        augmented: bool,
        seed: int,
        receiver_dropout: float,
    ) -> None:
        self.arrays, self.signals, self.rows, self.window = arrays, signals, rows, window
        self.batch_size, self.augmented, self.seed = batch_size, augmented, seed
        self.receiver_dropout = receiver_dropout
        self._shuffled: tuple[int, Array] = (-1, rows)

    def __len__(self) -> int:
        """Count the batches."""
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Tensor]:
        """Make the batch of an epoch with a number."""
        epoch, number = index
        rng = augmentation.generator(self.seed, epoch, number)
        order = self._order(epoch) if self.augmented else self.rows
        rows = np.sort(order[number * self.batch_size : (number + 1) * self.batch_size])
        chosen = torch.from_numpy(rows)
        batch = {name: values[chosen] for name, values in self.arrays.items()}
        for name, values in self.signals.items():
            batch[name] = self._read(name, values, rows, rng)
        if "iq" in batch:
            batch["iq"] = batch["iq"] * batch.pop("scale")[..., None, None]
        if not self.augmented:
            return batch
        if self.receiver_dropout:
            batch = augmentation.drop_receivers(batch, self.receiver_dropout, rng)
        return augmentation.rotate(batch, rng)

    def _read(self, name: str, values: InMemory | OnDisk, rows: Array, rng: torch.Generator) -> Tensor:
        if name != "iq" or self.window is None:
            return torch.from_numpy(np.nan_to_num(values.read(rows, None, None)))
        latest = values.length - self.window
        starts = np.full(len(rows), latest // 2)
        if self.augmented:
            starts = torch.randint(latest + 1, (len(rows),), generator=rng).numpy()
        return torch.from_numpy(values.read(rows, starts, self.window).astype(np.float32))

    def _order(self, epoch: int) -> Array:
        """Shuffle the scenes; those with signals in blocks of neighbours, and scenes within a buffer of blocks."""
        if self._shuffled[0] != epoch:
            draw = np.random.default_rng(augmentation.seed_of(self.seed, epoch))
            if self.signals:  # in memory or not, so that machines agree
                blocks = [self.rows[first : first + _BLOCK] for first in range(0, len(self.rows), _BLOCK)]
                mixed = [blocks[number] for number in draw.permutation(len(blocks))]
                buffers = [np.concatenate(mixed[first : first + _BUFFER]) for first in range(0, len(mixed), _BUFFER)]
                order = np.concatenate([draw.permutation(buffer) for buffer in buffers])
            else:
                order = draw.permutation(self.rows)
            self._shuffled = (epoch, order)
        return self._shuffled[1]


class BatchIndexSampler(Sampler[tuple[int, int]]):
    """Indices of batches, (epoch, number), for one of several processes; each process gets equally many.

    Parameters
    ----------
    batches : int
    epoch : callable
        Returns the current epoch.
    rank, world_size : int
    """

    def __init__(self, batches: int, epoch: Callable[[], int], rank: int, world_size: int) -> None:
        self.batches, self.epoch, self.rank, self.world_size = batches, epoch, rank, world_size

    def __len__(self) -> int:
        """Count the batches of this process."""
        return self.batches // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield indices in order; `Batches` shuffles the scenes."""
        epoch = self.epoch()
        for number in range(len(self)):
            yield epoch, number * self.world_size + self.rank


class SceneDataModule(pl.LightningDataModule):
    """Training, validation and test scenes of a dataset for one localizer.

    Parameters
    ----------
    source : Source
    model : Localizer
        Determines the arrays and the window.
    batch_size : int
    seed : int
    receiver_dropout : float
    num_workers : int
        Processes that read signals which are not in memory.
    memory_gb : float
        Signals up to this many 10⁹ bytes are loaded into memory.

    Raises
    ------
    ValueError
        If the dataset lacks an array, its signals are too short, or a split has too few scenes.
    """

    def __init__(
        self,
        source: Source,
        model: Localizer,
        *,
        batch_size: int,
        seed: int,
        receiver_dropout: float,
        num_workers: int = 0,
        memory_gb: float = 4.0,
    ) -> None:
        super().__init__()
        self.source, self.inputs = source, model.inputs
        self.window: int | None = getattr(model, "window", None)
        self.batch_size, self.seed, self.receiver_dropout = batch_size, seed, receiver_dropout
        self.num_workers, self.memory_gb = num_workers, memory_gb
        self._arrays: dict[str, Tensor] = {}
        self._signals: dict[str, InMemory | OnDisk] = {}
        _check_variables(source.dataset, self.inputs, self.window)
        self.rows = _split_rows(source.dataset)

    def measure(self, report: ProgressCallback) -> None:
        """Make the small arrays, measuring what is not measured yet, and open the signals."""
        arrays = small_arrays(self.source.dataset, self.inputs, report)
        self._arrays = {name: torch.from_numpy(values) for name, values in arrays.items()}
        for name in SIGNAL_DIMS:
            if name in self.inputs:
                self._signals[name] = self._open(name)

    def statistics(self) -> dict[str, Tensor]:
        """Scenes spread evenly over the training split, whose statistics standardise the inputs."""
        most = _STATISTICS_SCENES_WITH_SIGNALS if self._takes_signals() else _STATISTICS_SCENES
        step = math.ceil(len(self.rows["train"]) / most)
        rows = self.rows["train"][::step]
        return self._batches("train", rows=rows, batch_size=len(rows), augmented=False)[0, 0]

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training split, augmented."""
        batches = self._batches("train", augmented=True)
        trainer = self.trainer
        rank, world_size = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        sampler = BatchIndexSampler(len(batches), lambda: trainer.current_epoch if trainer else 0, rank, world_size)
        return self._loader(batches, sampler)

    def batches_per_epoch(self) -> int:
        """Batches that this process trains on."""
        return len(self.train_dataloader())

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation split, all of them for every process."""
        return self.loader("validation")

    def loader(self, split: str) -> DataLoader[Any]:
        """Batches of a split in order, not augmented."""
        batches = self._batches(split, augmented=False)
        return self._loader(batches, BatchIndexSampler(len(batches), lambda: 0, 0, 1))

    def _batches(
        self, split: str, *, augmented: bool, rows: Array | None = None, batch_size: int | None = None
    ) -> Batches:
        return Batches(
            self._arrays,
            self._signals,
            self.rows[split] if rows is None else rows,
            batch_size=batch_size or self.batch_size,
            window=self.window,
            augmented=augmented,
            seed=self.seed,
            receiver_dropout=self.receiver_dropout,
        )

    def _loader(self, batches: Batches, sampler: BatchIndexSampler) -> DataLoader[Any]:
        workers = self.num_workers if any(isinstance(each, OnDisk) for each in self._signals.values()) else 0
        return DataLoader(
            batches,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,  # files that HDF5 has open do not survive a fork
        )

    def _open(self, name: str) -> InMemory | OnDisk:
        variable = self.source.dataset[name].transpose(*SIGNAL_DIMS[name])
        if self.source.folder is None:
            return InMemory(variable.values)
        on_disk = OnDisk(self.source.folder, name)
        return on_disk.load() if variable.nbytes <= self.memory_gb * 1e9 else on_disk

    def _takes_signals(self) -> bool:
        return not set(SIGNAL_DIMS).isdisjoint(self.inputs)


def small_arrays(dataset: xr.Dataset, names: tuple[str, ...], report: ProgressCallback) -> dict[str, Array]:
    """Make all small arrays, a chunk of scenes at a time.

    Returns
    -------
    dict of str to array
        Those of `inputs.ARRAYS` that are small and in ``names``; ``present``, ``position`` and ``target``; ``heard``
        and ``reference`` (S, R) bool, for `augmentation.drop_receivers`; and ``scale`` (S, R) of the IQ.
    """
    measures, count = "features" in names, dataset.sizes["sample"]
    dataset = with_measurements(dataset, report) if measures else dataset.assign(_unmeasured(dataset))
    unused = [name for name in SIGNAL_DIMS if name != "iq" or not measures or "features" in dataset]
    needed = dataset.drop_vars(unused, errors="ignore")
    per_scene = needed["iq"].nbytes // count if "iq" in needed else 0
    chunk = max(1, min(_CHUNK_SCENES, _CHUNK_BYTES // max(1, per_scene)))
    parts = []
    for first in range(0, count, chunk):
        with dask.config.set(scheduler="synchronous"):  # HDF5 reads one at a time in any case
            scenes = needed.isel(sample=slice(first, first + chunk)).load()
        parts.append(_small_arrays(scenes, measures))
        report(min(first + chunk, count), "scenes read")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _small_arrays(dataset: xr.Dataset, measures: bool) -> dict[str, Array]:
    made = inputs.arrays(dataset, ("position", "present", *(["features"] if measures else [])))
    receivers = np.arange(dataset.sizes["receiver"])
    made["target"] = inputs.target(dataset)
    made["heard"] = dataset.heard.values
    made["reference"] = (receivers == dataset.reference_receiver.values[:, None]) & measures
    if "iq_full_scale" in dataset:
        made["scale"] = schema.converter_step(np.nan_to_num(dataset["iq_full_scale"].values))
    return made


def _unmeasured(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """Stand in for measurements where none is an input; ``heard`` is the simulated truth."""
    unknown = dataset.receiver_present.copy(data=np.full(dataset.receiver_present.shape, np.nan))
    heard = dataset.get("signal_present", dataset.receiver_present)
    first = dataset.transmitter_latitude.copy(data=np.zeros(dataset.sizes["sample"], dtype=int))
    known = {"heard": heard & dataset.receiver_present, "reference_receiver": first}
    return dict.fromkeys(schema.MEASURED, unknown) | known


def _check_variables(dataset: xr.Dataset, names: tuple[str, ...], window: int | None) -> None:
    if not dataset.sizes["sample"]:
        raise ValueError("dataset: holds no samples; generate some")
    for name in SIGNAL_DIMS:
        if name in names and name not in dataset:
            raise ValueError(f"{name}: is not in the dataset, and the architecture takes it; generate one that has it")
    if "features" in names and not {"features", "iq"} & set(dataset):
        raise ValueError("features: are not in the dataset, nor is IQ to measure them; generate one that has either")
    if "features" in names and "iq" not in dataset and (missing := sorted(set(schema.MEASURED) - set(dataset))):
        raise ValueError(f"{missing[0]}: is not in the dataset, nor is IQ to measure it; generate one that has either")
    if window is not None and dataset.sizes["time"] < window:
        raise ValueError(
            f"time: {dataset.sizes['time']} samples are fewer than the {window} that the architecture takes; generate "
            "with a larger signal.duration_s"
        )


def _split_rows(dataset: xr.Dataset) -> dict[str, Array]:
    """Rows of each split whose transmitter is known, references apart; refuses a dataset with too few."""
    if "seed" not in dataset.attrs:
        raise ValueError("seed: is not among the dataset's attributes; only simulated datasets have splits")
    split = splits.split_of(int(dataset.attrs["seed"]), splits.numbers(dataset))
    known = np.isfinite(dataset.transmitter_latitude.values) & ~schema.references(dataset)
    rows = {name: np.flatnonzero((split == name) & known) for name in splits.SHARES}
    for name, chosen in rows.items():
        if len(chosen) < 2:
            raise ValueError(
                f"dataset: of {splits.scenes_text(dataset)} {len(chosen)} are in the {name} split, at least 2 are "
                "needed; generate more"
            )
    return rows
