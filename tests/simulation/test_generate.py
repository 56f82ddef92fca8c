"""Who writes shards: workers of this machine, of an existing Dask cluster, from scripts and from notebooks."""

import asyncio
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest
from simulation.test_faults import NAMESPACE, mounts

import heimdall_lab as hl
from heimdall_lab.core import progress
from heimdall_lab.core.files import StoreError
from heimdall_lab.datasets.manifest import read_manifest

CLUSTER = """
import sys
from distributed import LocalCluster

if __name__ == "__main__":
    count = int(sys.argv[1])
    with LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None, silence_logs=60) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""

GENERATE = """
import json, resource, sys
import heimdall_lab as hl

config = hl.preset("los_sync", num_samples=40, seed=3, shard_size=2, signal={"duration_s": 0.1})
hl.generate(config, sys.argv[1], progress=False, **json.loads(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.fixture
def cluster(tmp_path):
    """Function that starts a Dask cluster outside of this process, as a context of its address."""
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)

    @contextmanager
    def run(workers, prefix=(), **environment):
        process = subprocess.Popen(
            [*prefix, sys.executable, str(script), str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | environment,
        )
        try:
            yield process.stdout.readline().strip()
        finally:
            process.communicate()

    return run


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def run_generate(out, **options):
    """Generate in a process of its own and return its largest resident memory in bytes."""
    arguments = [sys.executable, "-c", GENERATE, str(out), json.dumps(options)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout)


@pytest.mark.slow
def test_one_and_four_dask_workers_give_identical_bytes_from_a_process_of_the_same_size(cluster, tmp_path):
    resident = {}
    for workers in (1, 4):
        with cluster(workers) as address:
            resident[workers] = run_generate(tmp_path / str(workers), scheduler=address)
    resident["local"] = run_generate(tmp_path / "local", workers=4)
    run_generate(tmp_path / "here")
    assert max(resident.values()) < 1.15 * min(resident.values()), resident
    for other in ("1", "4", "local"):
        assert contents(tmp_path / other) == contents(tmp_path / "here")


@pytest.mark.slow
def test_scheduler_that_does_not_answer_is_refused(small, tmp_path):
    with pytest.raises(StoreError, match=r"scheduler: 'nowhere' is no address; give one such as tcp://"):
        hl.generate(small, tmp_path / "out", progress=False, scheduler="nowhere")
    for address in ("tcp://127.0.0.1:9", "tcp://no.such.host:8786"):
        with pytest.raises(StoreError, match=rf"scheduler: '{address}' does not answer .*; start one with 'dask s"):
            hl.generate(small, tmp_path / "out", progress=False, scheduler=address)


@pytest.mark.slow
def test_scheduler_without_workers_is_refused(small, cluster, tmp_path):
    with cluster(0) as address, pytest.raises(StoreError, match=rf"scheduler: '{address}' has no workers; start"):
        hl.generate(small, tmp_path / "out", progress=False, scheduler=address)


@pytest.mark.slow
def test_workers_of_another_version_or_without_the_package_are_refused(small, cluster, tmp_path):
    metadata = tmp_path / "other" / "heimdall_lab-9.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: heimdall_lab\nVersion: 9.9\n")
    broken = tmp_path / "broken" / "heimdall_lab" / "__init__.py"
    broken.parent.mkdir(parents=True)
    broken.write_text("raise ImportError('no heimdall_lab here')\n")
    before = os.environ.get("PYTHONPATH", "")
    with (
        cluster(1, PYTHONPATH=f"{tmp_path / 'other'}:{before}") as address,
        pytest.raises(StoreError, match=r"scheduler: its worker on .* has heimdall_lab 9\.9, this is .*; install"),
    ):
        hl.generate(small, tmp_path / "out", progress=False, scheduler=address)
    with (
        cluster(1, PYTHONPATH=f"{tmp_path / 'broken'}:{before}") as address,
        pytest.raises(StoreError, match=r"cannot use heimdall_lab \(.*\); install version .* on every worker"),
    ):
        hl.generate(small, tmp_path / "out", progress=False, scheduler=address)


@pytest.mark.slow
@mounts
def test_workers_that_do_not_see_the_folder_are_refused(small, cluster, tmp_path):
    out = tmp_path / "mounted" / "out"
    out.parent.mkdir()
    hide = [*NAMESPACE, "bash", "-c", f'mount -t tmpfs tmpfs {out.parent}; exec "$@"', "bash"]
    with (
        cluster(1, prefix=hide) as address,
        pytest.raises(StoreError, match=r"scheduler: its worker on .* does not see the folder .* choose one on"),
    ):
        hl.generate(small, out, progress=False, scheduler=address)


@pytest.mark.slow
def test_lost_scheduler_is_explained_and_what_is_written_is_kept(cluster, tmp_path):
    config = hl.preset("los_sync", num_samples=2000, shard_size=2, signal={"duration_s": 0.1})
    arguments = [sys.executable, "-m", "heimdall_lab.cli", "generate", "--preset", "los_sync", "--num-samples", "2000"]
    arguments += ["--shard-size", "2", "--set", "signal.duration_s=0.1", "--out", str(tmp_path / "out")]
    with cluster(1) as address:
        process = subprocess.Popen([*arguments, "--scheduler", address], stderr=subprocess.PIPE, text=True)
        assert "backend numpy (no GPU answers), workers of tcp://127.0.0.1:" in process.stderr.readline()
        assert "los_sync: " in process.stderr.readline()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith(
        "heimdall-lab: scheduler: the connection to it is lost; what is written is"
    )
    assert "Traceback" not in errors
    manifest = read_manifest(tmp_path / "out")
    assert 0 < manifest.num_samples < config.num_samples


def test_scheduler_is_for_folders_and_has_workers_of_its_own(small, tmp_path):
    for options in ({"out": tmp_path, "workers": 2}, {}):
        with pytest.raises(ValueError, match="scheduler: 'tcp://x:1' has workers of its own"):
            hl.generate(small, scheduler="tcp://x:1", **options)


@pytest.mark.slow
def test_script_without_main_guard_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import heimdall_lab as hl\n"
        "print('begins')\n"
        "config = hl.preset('los_sync', num_samples=8, shard_size=2, signal={'duration_s': 0.02})\n"
        "print(hl.generate(config, 'out', workers=2, progress=False).sizes['sample'])\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "begins\n8\n", "")


@pytest.mark.slow
def test_workers_run_beside_a_running_event_loop_and_leave_no_trace(small, tmp_path):
    """A notebook runs its cells inside an event loop."""
    import distributed

    environment = dict(os.environ)
    spec = sys.modules["__main__"].__spec__
    level = logging.getLogger("distributed").level

    async def cell():
        return hl.generate(small, tmp_path / "out", workers=2, progress=False)

    assert asyncio.run(cell()).sizes["sample"] == 12
    assert dict(os.environ) == environment
    assert sys.modules["__main__"].__spec__ is spec
    assert logging.getLogger("distributed").level == level
    with pytest.raises(ValueError, match="No client"):
        distributed.default_client()


@pytest.mark.slow
def test_notebook_can_be_interrupted_and_goes_on(tmp_path):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        setup = (
            "import heimdall_lab as hl\n"
            "config = hl.preset('los_sync', num_samples=60, shard_size=2, signal={'duration_s': 0.05})\n"
            f"out = {str(tmp_path / 'out')!r}"
        )
        assert client.execute_interactive(setup, timeout=60)["content"]["status"] == "ok"
        cell = client.execute("hl.generate(config, out, workers=2)", stop_on_error=False)  # or the next may be aborted
        while len(list(tmp_path.glob("out/shard-*.nc"))) < 3:
            assert manager.is_alive()
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != cell:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert re.match(r"interrupted: \d+ of 60 scenes are in", reply["content"]["evalue"])
        again = "assert hl.generate(config, out, workers=2, progress=False).sizes['sample'] == 60"
        assert client.execute_interactive(again, timeout=60)["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_backend_that_was_chosen_is_logged_and_shown(small, capsys, caplog):
    with caplog.at_level(logging.INFO, logger="heimdall_lab"):
        hl.generate(small)
        hl.generate(small, backend="numpy", progress=False)
    automatic, asked = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(r"generate los_sync: backend (numpy \(no GPU answers\)|cupy \(a GPU answers\))", automatic)
    assert asked == "generate los_sync: backend numpy"
    assert f"generate {capsys.readouterr().err.splitlines()[0]}" == automatic


def test_progress_tells_rate_time_left_and_acceptance(small, capsys):
    hl.generate(small)
    last = capsys.readouterr().err.splitlines()[-1]
    shape = r"los_sync: 12/12 [\d.]+ scenes/s, [\d.]+ [kMG] IQ/s, 0:00:00 left, [\d.]+% kept"
    assert re.fullmatch(shape, last)


def test_plain_lines_are_few_however_many_reports_there_are(capsys, monkeypatch):
    clock_s = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock_s)
    with progress.display("job", 5000) as report:
        for done in range(1, 5001):
            clock_s += 0.7
            report(done, "done")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "job: 1/5000 done"
    assert lines[-1] == "job: 5000/5000 done"
    assert 100 <= len(lines) <= 102
