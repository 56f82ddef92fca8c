"""Whether threads may use netCDF files at once: ``benchmarks/netcdf_threads.py [THREADS [ACTS [TIMES]]]``.

Every thread opens, reads, writes, closes and drops datasets of IQ and of features and a leaderboard in a random order.
Each time is a process of its own, which a crash of the netCDF library would end.
"""

import faulthandler
import gc
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import xarray as xr

import heimdall_lab as hl
from heimdall_lab.datasets import netcdf
from heimdall_lab.learning.signals_on_disk import OnDisk

_AT_ONCE = "--at-once"  # the process of one time, which has arguments of its own


def make_files(folder: Path) -> None:
    """Write a dataset of IQ in two shards, one of features, and a leaderboard."""
    config = hl.preset("los_sync", num_samples=12, seed=3, shard_size=6, signal={"duration_s": 0.02})
    dataset = hl.generate(config, folder / "iq", progress=False)
    hl.generate(config.model_copy(update={"data_type": "feature_based"}), folder / "features", progress=False)
    netcdf.write_netcdf(hl.compare(dataset, ["centroid", "tdoa_ls"]), folder / "leaderboard.nc")


def run(folder: Path, threads: int, acts: int, seed: int) -> "subprocess.CompletedProcess[str]":
    """Let threads do so many acts each with the files of a folder, in a process of its own."""
    command = [sys.executable, __file__, _AT_ONCE, folder, *map(str, (threads, acts, seed))]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _act_at_once(folder: Path, threads: int, acts: int, seed: int) -> None:
    faulthandler.dump_traceback_later(60 + 10 * acts, exit=True)  # of threads that wait for one another
    truth = {name: hl.open_dataset(folder / name).load() for name in ("iq", "features")}
    board = netcdf.load(folder / "leaderboard.nc")
    on_disk = OnDisk(folder / "iq", "iq")
    failures: list[BaseException] = []
    barrier = threading.Barrier(threads)

    def work(number: int) -> None:
        draw = random.Random(1000 * seed + number)
        barrier.wait()
        try:
            for _ in range(acts):
                _act(draw, folder, f"written-{number}.nc", truth, board, on_disk)
        except BaseException as error:
            failures.append(error)
            raise

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    if failures:
        sys.exit(f"{len(failures)} failed, the first of them so: {failures[0]}")


def _act(
    draw: random.Random, folder: Path, own_file: str, truth: dict[str, xr.Dataset], board: xr.Dataset, on_disk: OnDisk
) -> None:
    match draw.randrange(6):
        case 0 | 1 | 2 as ending:
            _read(draw, folder, truth, ending)
        case 3:
            rows = np.array(_rows(draw, truth["iq"]))
            reader = on_disk if draw.random() < 0.5 else OnDisk(folder / "iq", "iq")
            assert (reader.read(rows, None, None) == truth["iq"].iq.values[rows]).all()
        case 4:
            assert netcdf.load(folder / "leaderboard.nc").identical(board)
        case _:
            netcdf.write_netcdf(board, folder / own_file)
            assert netcdf.load(folder / own_file).identical(board)
    if draw.random() < 0.05:
        gc.collect()


def _read(draw: random.Random, folder: Path, truth: dict[str, xr.Dataset], ending: int) -> None:
    """Open a dataset and read a variable; drop it, close it, or leave it to garbage collection."""
    name = draw.choice(["iq", "features"])
    opened = hl.open_dataset(folder / name)
    variable = draw.choice([str(each) for each in opened.data_vars])
    found, wanted = opened[variable], truth[name][variable]
    if "sample" in found.dims:
        rows = _rows(draw, truth[name])
        found, wanted = found.isel(sample=rows), wanted.isel(sample=rows)
    assert found.load().identical(wanted)
    if ending == 1:
        opened.close()
    if ending == 2:
        cycle: list[object] = [opened]
        cycle.append(cycle)  # only garbage collection ends it


def _rows(draw: random.Random, dataset: xr.Dataset) -> list[int]:
    return sorted(draw.sample(range(dataset.sizes["sample"]), 3))


def main(threads: int = 16, acts: int = 200, times: int = 20) -> None:
    """Do so again and again, and print how each time ended."""
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder))
        for seed in range(times):
            begin = time.monotonic()
            done = run(Path(folder), threads, acts, seed)
            ended = "well" if done.returncode == 0 else f"with {done.returncode}\n{done.stderr[-3000:]}"
            print(f"{threads} threads x {acts} acts ended {ended}, after {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    if _AT_ONCE in sys.argv:
        _act_at_once(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        main(*map(int, sys.argv[1:]))
