"""Whether work that is killed at any moment ends as if it had not been: ``benchmarks/kills.py [KILLS [NAME …]]``.

Each kind of work is done once undisturbed, which gives its files and its time. Then processes begin it, or go on with
it, and are killed by SIGKILL at a random moment of that time; only kills of processes that had not ended count. After
each kill, what is under its final name must be whole; then the same work, undisturbed, must end with the same files.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import dask
import xarray as xr

import heimdall_lab as hl
from heimdall_lab import cli
from heimdall_lab.app.service import jobs, tasks
from heimdall_lab.datasets import netcdf
from heimdall_lab.datasets.manifest import MANIFEST, read_manifest
from heimdall_lab.learning.callbacks import CHECKPOINT, read_checkpoint
from heimdall_lab.learning.run_folder import read_record
from heimdall_lab.learning.training import train

KILLS = 20
EPOCHS = 8
_POLL_S = 0.002


class Work(NamedTuple):
    """A kind of work: what does it into a folder, and what the folder holds of it, by name."""

    do: Callable[[Path], object]
    outputs: Callable[[Path], dict[str, str]]


class Result(NamedTuple):
    """What came of the kills of one kind of work."""

    name: str
    kills: int  # of processes that had not ended
    ended: int  # processes that ended before they were killed
    identical: bool

    def show(self) -> None:
        """Print it; SystemExit if something was lost."""
        print(f"{self.name}: {self.kills} kills, {self.ended} ended before; ", end="")
        print("identical" if self.identical else "NOT identical", flush=True)
        if not self.identical:
            sys.exit(1)


def digests(folder: Path, pattern: str = "*") -> dict[str, str]:
    """Checksums of the files of a folder that have their final names."""
    files = [path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith(".")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shards(folder: Path) -> dict[str, str]:
    """Those of a dataset; its manifest, which grows, is read."""
    if (folder / MANIFEST).exists():
        read_manifest(folder)
    return digests(folder, "shard-*.nc")


def trained(folder: Path) -> dict[str, str]:
    """Those of a finished run; the record and the checkpoint, which change, are read."""
    read_record(folder)
    if (folder / CHECKPOINT).exists():
        read_checkpoint(folder / CHECKPOINT)
    return {name: digest for name, digest in digests(folder).items() if name not in ("run.json", CHECKPOINT)}


def boards(folder: Path) -> dict[str, str]:
    """Those of a leaderboard without its times, which differ."""
    found = digests(folder)
    for name in set(found) & {"leaderboard.nc"}:
        board = netcdf.load(folder / name)
        board = board.drop_vars([each for each in board if str(each).startswith("latency")])
        found[name] = hashlib.sha256(repr(board.to_dict()).encode()).hexdigest()
    return {name: digest if name == "leaderboard.nc" else "" for name, digest in found.items()}


def works(dataset: xr.Dataset, features: Path) -> dict[str, Work]:
    """The kinds of work, by name."""
    config = hl.preset("los_sync", num_samples=40, shard_size=1, seed=20, signal={"duration_s": 0.02})
    iq = Path(dataset.encoding["source"]).parent

    def compare(out: Path) -> None:
        sys.argv = ["heimdall-lab", "compare", str(iq), "--methods", "centroid,tdoa_ls,rss_ml", "--out", str(out)]
        try:
            cli.main()
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"compare ended with {end.code}") from end

    def learn(out: Path) -> None:
        train(features, "triangulation", out=out, epochs=EPOCHS, tracking=False, progress=False)

    return {
        "generation, one worker": Work(lambda out: hl.generate(config, out, progress=False), shards),
        "generation, two workers": Work(lambda out: hl.generate(config, out, progress=False, workers=2), shards),
        "training": Work(learn, trained),
        "compare --out": Work(compare, boards),
        "write_sigmf": Work(lambda out: hl.write_sigmf(dataset, out), digests),
    }


def begin(work: Work, out: Path) -> int:
    """Do work in a process of its own, which is a copy of this one and so imports nothing; returns its number."""
    child = os.fork()
    if child == 0:
        try:
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                work.do(out)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def undisturbed(work: Work, out: Path) -> float:
    """Do work to its end; returns its time, s."""
    began_s = time.monotonic()
    _, status = os.waitpid(begin(work, out), 0)
    if status:
        raise RuntimeError(f"{out}: the work ended with status {status}")
    return time.monotonic() - began_s


def is_killed(work: Work, out: Path, moment_s: float) -> bool:
    """Begin work, and kill it at a moment; False if it had ended before."""
    child, began_s = begin(work, out), time.monotonic()
    while time.monotonic() - began_s < moment_s:
        time.sleep(_POLL_S)
    os.kill(child, signal.SIGKILL)  # the number of a process that has ended stays its own until it is waited for
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and status:
        raise RuntimeError(f"{out}: work that was gone on with ended with status {status}")
    return os.WIFSIGNALED(status)


def kill_again_and_again(name: str, work: Work, scratch: Path, kills: int) -> Result:
    """Kill one kind of work so many times, and see what it ends with."""
    whole, out, moments = scratch / "whole" / "out", scratch / "out", random.Random(name)
    whole.parent.mkdir()
    undisturbed(work, whole.parent / "first")  # which loads what is loaded once
    longest_s, expected = undisturbed(work, whole), work.outputs(whole)
    hit, ended, identical = 0, 0, True
    while hit < kills:
        if is_killed(work, out, moments.uniform(0, longest_s)):
            hit += 1
        else:
            ended += 1
            identical &= work.outputs(out) == expected
            shutil.rmtree(out)
        found = work.outputs(out)
        identical &= found.items() <= expected.items()
        identical &= name.startswith("generation") or set(found) in (set(), set(expected))
    undisturbed(work, out)
    left = [path.name for path in (*out.iterdir(), *scratch.iterdir()) if path.name.endswith(".tmp")]
    return Result(name, hit, ended, identical and work.outputs(out) == expected and not left)


def kill_jobs(scratch: Path, kills: int) -> Result:
    """Kill the process of a job of the dashboard so many times, which the server starts again each time."""
    config = hl.preset("los_sync", num_samples=40, shard_size=1, seed=20, signal={"duration_s": 0.02})
    root, moments, hit, ended, identical = scratch / "data", random.Random("job"), 0, 0, True
    hl.generate(config, scratch / "whole", progress=False)
    expected = shards(scratch / "whole")
    task = tasks.Generation(folder="made", config=config)

    def run() -> Iterator[Any]:
        """Submit the task, again where it is given up, and yield its process whenever one is started."""
        job = jobs.submit(root, task)
        while jobs.find_job(root, job.id).is_active:
            jobs.start_next(root)
            yield from jobs._PROCESSES[-1:]

    started_s = time.monotonic()
    for process in run():
        process.wait()
    longest_s = time.monotonic() - started_s
    shutil.rmtree(root / "made")
    while hit < kills:
        if shards(root / "made") == expected:  # it ended before it was killed
            shutil.rmtree(root / "made")
        for process in run():
            if hit == kills:
                process.wait()
                break
            began_s = time.monotonic()
            try:
                if process.wait(moments.uniform(0.3, 1) * longest_s) == 0:  # the machine is less busy than it was
                    ended, longest_s = ended + 1, time.monotonic() - began_s
            except subprocess.TimeoutExpired:
                pass
            process.kill()
            hit += process.wait() == -signal.SIGKILL
            identical &= shards(root / "made").items() <= expected.items()
    return Result("dashboard job", hit, ended, identical and shards(root / "made") == expected)


def main(kills: int = KILLS, *names: str) -> None:
    """Print what came of the kills of each kind of work."""
    # Threads of Dask would be missing in the copies of this process.
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="synchronous"):
        scratch = Path(folder)
        config = hl.preset("los_sync", num_samples=64, shard_size=16, seed=5, signal={"duration_s": 0.02})
        hl.generate(config.model_copy(update={"data_type": "feature_based"}), scratch / "features", progress=False)
        dataset = hl.generate(config, scratch / "iq", progress=False)
        for name, work in works(dataset, scratch / "features").items():
            if not names or name in names:
                place = Path(tempfile.mkdtemp(dir=folder))
                kill_again_and_again(name, work, place, kills).show()
        if not names or "dashboard job" in names:
            kill_jobs(Path(tempfile.mkdtemp(dir=folder)), kills).show()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
