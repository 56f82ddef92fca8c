"""What a run survives: each fault is really caused, and the same command then gives the bytes of an undisturbed run."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

import heimdall_lab as hl
from heimdall_lab import cli
from heimdall_lab.core.files import LOCK, StoreError
from heimdall_lab.datasets import store
from heimdall_lab.datasets.manifest import MANIFEST, begin_dataset, read_manifest, remove_leftovers

SCENES = 80
WORKERS = [1, pytest.param(2, marks=pytest.mark.slow)]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
mounts = pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0,
    reason="this machine lets nobody mount a file system of their own",
)


def command(out, *arguments, num_samples=SCENES, shard_size=2, duration_s=0.05):
    size = ["--num-samples", str(num_samples), "--shard-size", str(shard_size)]
    fixed = ["generate", "--preset", "los_sync", *size, "--set", f"signal.duration_s={duration_s}", "--out", str(out)]
    return [sys.executable, "-m", "heimdall_lab.cli", *fixed, *map(str, arguments)]


def run(out, *arguments, **settings):
    """Run a command to its end."""
    assert status_of(command(out, *arguments, **settings)[3:]) == 0


def status_of(arguments):
    """Run the command line in this process, as a start of its own takes seconds, and return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["heimdall-lab", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return end.value.code


def launch(out, *arguments, **settings):
    """Start a command in a process group of its own, as a terminal does."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(out, *arguments, **settings), start_new_session=True, **streams)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def wait_for_shards(folder, count):
    wait_for(lambda: len(list(folder.glob("shard-*.nc"))) >= count)


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def workers_of(process):
    """Processes that write shards for another one."""
    return [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]


def assert_only_valid_shards(folder):
    if any(folder.glob("shard-*.nc")):
        assert set(store.verify(folder).state) <= {"ok", "not generated yet"}
    assert [name for name in contents(folder) if name.endswith(".tmp") or name == LOCK] == []


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory):
    """What an undisturbed run of the default command writes; do not change it."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(out)
    return out


@pytest.fixture(scope="module")
def whole(whole_folder):
    """Its files."""
    return contents(whole_folder)


@pytest.mark.parametrize("workers", WORKERS)
def test_killed_generation_resumes_to_identical_bytes(tmp_path, whole, workers):
    process = launch(tmp_path, "--workers", workers)
    wait_for_shards(tmp_path, 5)
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert len(started) == (0 if workers == 1 else workers + 1)  # the workers and multiprocessing's resource tracker
    assert psutil.wait_procs(started, timeout=20)[1] == []
    assert 5 <= len(list(tmp_path.glob("shard-*.nc"))) < SCENES / 2
    with pytest.raises(StoreError, match=r"unfinished.*run the same 'generate' command"):
        hl.open_dataset(tmp_path)
    run(tmp_path, "--workers", workers)
    assert contents(tmp_path) == whole


KILL_AT_RANDOM = """
import os, pathlib, random, signal, sys, time
import heimdall_lab as hl

config = hl.preset("los_sync", num_samples=int(sys.argv[3]), shard_size=1, signal={"duration_s": 0.02})
out, kills = pathlib.Path(sys.argv[1]), int(sys.argv[2])
hl.generate(config.model_copy(update={"num_samples": 1}), progress=False)  # so that no child waits for compilers

def kill_when(condition):
    child = os.fork()
    if child == 0:
        hl.generate(config, out, progress=False)
        os._exit(0)
    before = time.monotonic()
    while not condition(time.monotonic() - before):
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    print(len(list(out.glob("shard-*.nc"))))
    return time.monotonic() - before

longest_s = kill_when(lambda _: len(list(out.glob("shard-*.nc"))) == 6)
moments = random.Random(20)
for _ in range(kills):
    moment_s = moments.uniform(0, longest_s)
    kill_when(lambda elapsed_s: elapsed_s >= moment_s)
"""


@pytest.mark.slow
def test_kills_at_random_moments_and_a_resume_give_identical_bytes(tmp_path):
    kills, num_samples = 20, 120
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", KILL_AT_RANDOM, killed, str(kills), str(num_samples)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    first, *written = (int(line) for line in done.stdout.split())
    assert len(written) == kills
    assert first < written[kills // 2] < written[-1] < num_samples
    assert set(store.verify(killed).state) == {"ok", "not generated yet"}
    config = hl.preset("los_sync", num_samples=num_samples, shard_size=1, signal={"duration_s": 0.02})
    hl.generate(config, killed, progress=False)
    hl.generate(config, tmp_path / "whole", progress=False)
    assert contents(killed) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_is_replaced_and_nothing_is_lost(tmp_path, whole):
    process = launch(tmp_path, "--workers", 2)
    wait_for_shards(tmp_path, 3)
    workers_of(process)[0].kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert [line for line in errors.splitlines() if not line.startswith("los_sync: ")] == []
    assert contents(tmp_path) == whole


@pytest.mark.slow
def test_workers_that_run_out_of_memory_again_and_again_are_explained(tmp_path, monkeypatch):
    limit = 400e6 / (psutil.virtual_memory().total / 2)
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE", str(limit))
    process = launch(tmp_path, "--workers", 2, num_samples=32, shard_size=16, duration_s=30)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert re.fullmatch(r"heimdall-lab: workers: 4 of them ended .*memory.* fewer workers.*", errors.splitlines()[-1])
    assert [line for line in errors.splitlines()[:-1] if not line.startswith("los_sync: ")] == []
    assert_only_valid_shards(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("workers", WORKERS)
def test_interrupt_finishes_the_shards_being_written_and_the_same_command_goes_on(tmp_path, whole, workers):
    process = launch(tmp_path, "--workers", workers)
    wait_for_shards(tmp_path, 3)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    done = read_manifest(tmp_path).num_samples
    assert errors.splitlines()[-1] == (
        f"heimdall-lab: interrupted: {done} of {SCENES} scenes are in {str(tmp_path)!r}; "
        "run the same command again to go on"
    )
    assert "Traceback" not in errors
    assert 6 <= done < SCENES
    assert len(list(tmp_path.glob("shard-*.nc"))) == done / 2
    assert_only_valid_shards(tmp_path)
    run(tmp_path)
    assert contents(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.parametrize("workers", WORKERS)
def test_second_interrupt_stops_at_once(tmp_path, workers):
    slow = ["--set", "channel.fading=rayleigh", "--set", "channel.coherence_time_min_s=0.001"]  # a shard takes a minute
    process = launch(tmp_path, "--workers", workers, *slow, num_samples=9000, shard_size=1500, duration_s=0.2)
    wait_for((tmp_path / MANIFEST).exists)
    time.sleep(2 * workers)
    os.killpg(process.pid, signal.SIGINT)
    assert any("Ctrl-C again stops at once" in line for line in process.stderr)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith(
        "heimdall-lab: interrupted: 0 of 9000 scenes are in "
    )  # not even one shard
    assert_only_valid_shards(tmp_path)


@pytest.mark.slow
def test_second_process_on_a_folder_is_refused_until_the_first_ends_or_is_killed(tmp_path, whole, capsys):
    process = launch(tmp_path)
    wait_for_shards(tmp_path, 3)
    process.send_signal(signal.SIGSTOP)  # so that it is not done before the second one has started
    assert status_of(command(tmp_path)[3:]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"heimdall-lab: out: {str(tmp_path)!r} is being written to by process {process.pid} ")
    assert len(errors.splitlines()) == 1
    assert list(hl.datasets(tmp_path).state) == ["unfinished"]
    process.kill()
    process.communicate()
    assert (tmp_path / LOCK).exists()
    run(tmp_path)
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.slow
def test_a_full_disk_is_explained_and_resumed(tmp_path, workers):
    arguments, small = (tmp_path, "--workers", workers), {"num_samples": 8, "shard_size": 4}
    limit = ["bash", "-c", 'ulimit -f 100; "$@"', "bash", *command(*arguments, **small)]
    limited = subprocess.run(limit, capture_output=True, text=True)
    assert limited.returncode == 1
    assert "Traceback" not in limited.stderr
    assert limited.stderr.splitlines()[-1].startswith(f"heimdall-lab: out: cannot write to {str(tmp_path)!r}")
    assert contents(tmp_path) == {}
    run(*arguments, **small)
    assert list(store.verify(tmp_path).state) == ["ok", "ok"]


FILL_THE_DISK = """
mount -t tmpfs -o size=40m tmpfs "$1"; cd "$1"; shift
"$@" 2> errors & job=$!
while [ "$(ls out 2> /dev/null | grep -c '^shard')" -lt 3 ]; do sleep 0.02; done
cat /dev/zero > fill 2> /dev/null
wait $job; echo "status $?"; rm fill
tail -n 1 errors; ls -A out | grep -v '^shard'
"$@" 2> /dev/null > /dev/null; echo "status $?"
cd out && sha256sum *
rm shard-0000?.nc; cd ..
head -c $(($(df --output=avail -B1 . | tail -n 1) - 1000000)) /dev/zero > fill
"$@" 2>&1
"""


@pytest.mark.slow
@mounts
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_meanwhile_leaves_valid_shards(tmp_path, whole, workers):
    arguments = [tmp_path, *command("out", "--workers", workers)]
    done = subprocess.run([*NAMESPACE, "bash", "-c", FILL_THE_DISK, "bash", *arguments], capture_output=True, text=True)
    first, error, manifest, second, *rest = done.stdout.splitlines()
    assert (first, manifest, second) == ("status 1", MANIFEST, "status 0")
    assert re.fullmatch(
        r"heimdall-lab: out: cannot write to '.*out' \(.*make room and run the same command again", error
    )
    *sums, refused = rest
    assert {line.split()[1]: line.split()[0] for line in sums} == whole
    assert re.fullmatch(r"heimdall-lab: out: 'out' needs 2\.\d+ MB for 20 scenes, and .*B are free there; .*", refused)


def test_a_flipped_byte_is_found_and_repaired(tmp_path, whole_folder, whole, capsys):
    shutil.copytree(whole_folder, tmp_path, dirs_exist_ok=True)
    shard = tmp_path / "shard-00007.nc"
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    assert status_of(["verify", tmp_path]) == 1
    assert "shard-00007.nc: has another checksum (1 of 40 shards are not whole)" in capsys.readouterr().err
    run(tmp_path)
    assert contents(tmp_path) == whole


def test_read_only_folder_with_a_leftover_is_refused_and_a_finished_one_is_opened(small, read_only):
    folder, forbid = read_only
    hl.generate(small, folder, progress=False)
    (folder / ".shard-00001.nc.99.tmp").write_bytes(b"left by a killed process")
    manifest = read_manifest(folder)
    forbid(folder)
    assert hl.generate(small, folder, progress=False).sizes["sample"] == 12
    with pytest.raises(StoreError, match=r"out: cannot write to .*Permission denied.*choose a folder"):
        remove_leftovers(folder)
    more = small.model_copy(update={"num_samples": 16})
    with pytest.raises(StoreError, match=r"out: cannot write to .*Permission denied.*choose a folder"):
        hl.generate(more, folder, progress=False)
    with pytest.raises(StoreError, match=r"out: cannot write to .*Permission denied.*choose a folder"):
        begin_dataset(folder, small, manifest.package_version)
