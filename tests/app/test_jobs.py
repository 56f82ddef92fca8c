"""Jobs in processes of their own: one at a time, cancelled, resumed, and never lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from dashboards import occupied, submitted

import heimdall_lab as hl
from heimdall_lab.app.service import jobs, tasks
from heimdall_lab.core.files import StoreError, UnwritableError, locked
from heimdall_lab.datasets import manifest, store
from heimdall_lab.learning import experiments

MOST_S = 120  # for what a process of its own does, on a busy machine


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data folder, where MLflow keeps its runs, too; no job of it outlives the test."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    yield folder
    for started in jobs._PROCESSES:
        started.kill()
        started.wait()


def generation(small, folder="made", **changes):
    return tasks.Generation(folder=folder, config=small.model_copy(update=changes))


def settled(root, job, seconds=MOST_S):
    """Wait until a job has ended, starting the next one whenever its turn has come."""
    deadline = time.monotonic() + seconds
    while (found := jobs.find_job(root, job.id)).is_active:
        assert time.monotonic() < deadline, jobs.read_log(root, job.id)
        jobs.start_next(root)
        time.sleep(0.05)
    return found


def under_way(root, job):
    """Wait until a job has written something."""
    deadline = time.monotonic() + MOST_S
    while not jobs.progress(root, jobs.find_job(root, job.id)).done:
        assert time.monotonic() < deadline, jobs.read_log(root, job.id)
        time.sleep(0.02)


def process_of(root, job):
    """Number of a job's process, as soon as that has noted it."""
    path = root / "jobs" / job.id / "pid"
    deadline = time.monotonic() + MOST_S
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(path.read_text())


def ended(root, job):
    """Wait until no process does a job."""
    deadline = time.monotonic() + MOST_S
    while jobs._is_running(root / "jobs" / job.id):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def busy(root):
    """Let a job seem to run, so that all others wait."""
    with occupied(root, tasks.Generation(folder="other", config=hl.preset("los_sync"))) as folder:
        yield folder


@pytest.mark.slow
def test_a_job_writes_the_dataset_that_generate_writes(root, small, tmp_path):
    job = settled(root, jobs.submit(root, generation(small)))
    assert (job.state, job.message) == ("finished", "")
    assert job.ended_at > job.started_at > job.asked_at
    hl.generate(small, out=tmp_path / "expected", progress=False)
    assert manifest.dataset_checksum(root / "made") == manifest.dataset_checksum(tmp_path / "expected")


@pytest.mark.slow
def test_one_job_runs_at_a_time_and_the_others_wait_in_order(root, small):
    asked = [jobs.submit(root, generation(small, name, seed=number)) for number, name in enumerate("abc")]
    running = 0
    while any(job.is_active for job in jobs.list_jobs(root)):
        jobs.start_next(root)
        states = [job.state for job in jobs.list_jobs(root)]
        assert states.count("running") <= 1
        running += "running" in states
        assert states == sorted(states, key=["finished", "running", "queued"].index)
        time.sleep(0.05)
    assert running
    assert [settled(root, job).state for job in asked] == ["finished"] * 3


@pytest.mark.usefixtures("busy")
def test_a_waiting_job_is_cancelled_at_once(root, small):
    job = jobs.submit(root, generation(small))
    assert job.state == "queued"
    assert jobs.cancel(root, job.id).state == "cancelled"
    assert not (root / "made").exists()
    with pytest.raises(tasks.JobError, match="is cancelled already"):
        jobs.cancel(root, job.id)


def test_a_running_job_is_cancelled_after_its_shard_and_goes_on_when_asked_again(root, small):
    job = jobs.submit(root, generation(small, num_samples=160))
    under_way(root, job)
    jobs.cancel(root, job.id)
    ended(root, job)
    done = manifest.samples_written(root / "made")
    assert jobs.find_job(root, job.id).state == "cancelled"
    assert 0 < done < 160
    again = jobs.submit(root, generation(small, num_samples=160))
    assert settled(root, again).state == "finished"
    assert json.loads((root / "jobs" / again.id / "attempt.json").read_text())["done_before"] == done


@pytest.mark.slow
def test_a_process_that_died_is_started_again_and_given_up_in_the_end(root, small):
    job = jobs.submit(root, generation(small, num_samples=4000, shard_size=4000))  # no progress before all are there
    for attempt in (1, 2, 3):
        jobs.start_next(root)
        assert json.loads((root / "jobs" / job.id / "attempt.json").read_text())["number"] == attempt
        os.kill(process_of(root, job), signal.SIGKILL)
        ended(root, job)
    jobs.start_next(root)
    found = jobs.find_job(root, job.id)
    assert found.state == "failed"
    assert "without a message" in found.message


@pytest.mark.slow
def test_a_job_outlives_a_killed_process_that_submitted_it_and_resumes_if_it_was_killed_too(root, small, tmp_path):
    config = small.model_copy(update={"num_samples": 400})
    (tmp_path / "task.json").write_text(generation(config).model_dump_json())
    program = (
        "import sys, time; from pathlib import Path; from heimdall_lab.app.service import jobs, tasks\n"
        "task = tasks.Generation.model_validate_json(Path('task.json').read_text())\n"
        "print(jobs.submit(Path('data'), task).id, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as submitter:
        job = jobs.find_job(root, submitter.stdout.readline().strip())
        submitter.kill()
    under_way(root, job)
    assert jobs.find_job(root, job.id).state == "running"
    os.kill(process_of(root, job), signal.SIGKILL)
    ended(root, job)
    done = manifest.samples_written(root / "made")
    assert settled(root, job).state == "finished"
    attempt = json.loads((root / "jobs" / job.id / "attempt.json").read_text())
    assert (attempt["number"], attempt["done_before"]) == (2, done)
    assert 0 < done < 400 == manifest.samples_written(root / "made")


@pytest.fixture
def silent(monkeypatch):
    """Let the processes of jobs end at once, without a message."""
    monkeypatch.setattr(jobs.sys, "executable", shutil.which("false"))


def ends_silently(root, job):
    """Start a job, whose process ends at once; returns whether it was started, or given up."""
    ended(root, job)
    jobs.start_next(root)
    return jobs.find_job(root, job.id).is_active


@pytest.mark.usefixtures("silent")
def test_a_process_that_made_progress_resets_the_count_of_silent_ends(root, small):
    config = small.model_copy(update={"num_samples": 24})
    hl.generate(config, out=root / "whole", progress=False)
    whole = manifest.read_manifest(root / "whole")
    job = jobs.submit(root, tasks.Generation(folder="made", config=config))
    (root / "made").mkdir()
    for shards in (1, 3, 4):
        for _ in range(2):
            assert ends_silently(root, job)
        manifest.write_manifest(root / "made", whole.model_copy(update={"shards": whole.shards[:shards]}))
    assert [ends_silently(root, job) for _ in range(4)] == [True, True, True, False]
    found = jobs.find_job(root, job.id)
    assert found.state == "failed"
    assert "ended 3 times in a row without a message and without progress, 16 scenes being done" in found.message
    assert "submit it again to go on from there" in found.message
    again = jobs.submit(root, tasks.Generation(folder="made", config=config))
    assert again.is_active


@pytest.mark.usefixtures("silent")
def test_epochs_are_the_progress_of_training_and_what_is_unreadable_is_none(root, small, monkeypatch):
    epochs = 0

    def epoch_times(*_):
        if epochs is None:
            raise experiments.TrackingError("MLFLOW_TRACKING_URI: cannot be used")
        return [0.0] * epochs

    monkeypatch.setattr(jobs, "_epoch_times", epoch_times)
    hl.generate(small, out=root / "scenes", progress=False)
    job = jobs.submit(root, tasks.Training(folder="r", dataset="scenes", architecture="triangulation"))
    for epochs in (0, 0, 5, 5, None, 6, None, None):
        assert ends_silently(root, job), epochs
    epochs = None
    assert not ends_silently(root, job)
    assert "6 epochs being done" in jobs.find_job(root, job.id).message


def test_a_failed_job_has_the_message_of_its_error(root, small):
    job = settled(root, jobs.submit(root, generation(small, gate=small.gate.model_copy(update={"max_gdop": 1e-6}))))
    assert job.state == "failed"
    assert "gate.max_gdop" in job.message


def test_what_cannot_be_queued_is_told_and_leaves_nothing(small, read_only, full_disk):
    folder, forbid = read_only
    with full_disk(100), pytest.raises(UnwritableError, match=r"jobs: cannot write to '.*task.json takes .*make room"):
        jobs.submit(folder, generation(small))
    assert jobs.list_jobs(folder) == []
    assert [path.name for path in (folder / "jobs").iterdir()] == [".lock"]
    shutil.rmtree(folder / "jobs")
    forbid(folder)
    with pytest.raises(UnwritableError, match=r"jobs: cannot write to '.*Permission denied.*choose a folder"):
        jobs.submit(folder, generation(small))


def test_a_cancellation_that_cannot_be_noted_is_told(small, read_only):
    folder, forbid = read_only
    job = submitted(folder, generation(small), 1).name
    (folder / "jobs" / ".lock").touch(0o666)
    forbid(folder / "jobs" / job)
    with pytest.raises(UnwritableError, match=r"jobs: cannot write to '.*Permission denied.*choose a folder"):
        jobs.cancel(folder, job)
    assert jobs.find_job(folder, job).state == "queued"


@pytest.mark.usefixtures("busy")
def test_what_cannot_be_done_is_refused_before_it_is_queued(root, small):
    jobs.submit(root, generation(small))
    refused = {
        "already; wait for it": generation(small),
        "keeps other things": generation(small, "runs"),
        "is none of those": tasks.Training(folder="r", dataset="../data/made", architecture="triangulation"),
    }
    (root / "photos").mkdir()
    refused["holds no dataset"] = generation(small, "photos")
    hl.generate(small, out=root / "whole", progress=False)
    refused["whole, already"] = generation(small, "whole")
    refused["num_samples: 4000000000 scenes take"] = generation(small, "huge", num_samples=4_000_000_000)
    (root / "runs" / "mine").mkdir(parents=True)
    (root / "runs" / "mine" / "run.json").write_text("{}")
    refused["holds another run"] = tasks.Training(folder="mine", dataset="whole", architecture="triangulation")
    refused["another seed"] = generation(small, "whole", seed=99)
    refused["localization_net"] = tasks.Training(folder="r", dataset="whole", architecture="localization_net")
    refused["epochs"] = tasks.Training(folder="r", dataset="whole", architecture="triangulation", options={"epochs": 0})
    refused["depth"] = tasks.Training(
        folder="r", dataset="whole", architecture="triangulation", parameters={"depth": 2}
    )
    for words, task in refused.items():
        with pytest.raises(ValueError, match=words):
            jobs.submit(root, task)
    assert len(jobs.list_jobs(root)) == 2


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/b", "", "a b", "x" * 65, ".."])
def test_names_that_leave_the_data_folder_are_refused(small, name):
    with pytest.raises(ValueError, match="folder"):
        generation(small, name)
    with pytest.raises(ValueError, match="folder"):
        tasks.Training(folder=name, dataset="d", architecture="triangulation")


@pytest.mark.parametrize("identity", ["", "..", "../jobs", "nothing", "20200101T000000000000-0001"])
def test_an_unknown_job_is_refused(root, identity):
    for function in (jobs.find_job, jobs.cancel, jobs.read_log):
        with pytest.raises(tasks.JobError, match="is unknown"):
            function(root, identity)


@pytest.mark.slow
def test_progress_of_training_comes_from_mlflow(root, small):
    hl.generate(small.model_copy(update={"num_samples": 60}), out=root / "scenes", progress=False)
    options = {"epochs": 3, "patience": 3}
    task = tasks.Training(folder="quick", dataset="scenes", architecture="triangulation", options=options)
    job = settled(root, jobs.submit(root, task))
    assert (job.state, job.message) == ("finished", "")
    assert jobs.progress(root, job).model_dump(include={"done", "total", "unit"}) == {
        "done": 3,
        "total": 3,
        "unit": "epochs",
    }
    assert (root / "runs" / "quick" / "model.onnx").is_file()


def test_deleting_leaves_what_is_no_part_of_a_dataset(root, small):
    hl.generate(small, out=root / "whole", progress=False)
    (root / "whole" / "notes.txt").write_text("mine")
    store.delete(root / "whole")
    assert [path.name for path in (root / "whole").iterdir()] == ["notes.txt"]
    with pytest.raises(StoreError, match="is no dataset"):
        store.delete(root / "whole")


def test_a_dataset_that_is_being_written_is_not_deleted(root, small):
    hl.generate(small, out=root / "whole", progress=False)
    with locked(root / "whole"), pytest.raises(StoreError, match="is being written"):
        store.delete(root / "whole")
    assert set(store.verify(root / "whole").state) == {"ok"}
    store.delete(root / "whole")
    assert not (root / "whole").exists()


def test_a_job_cancelled_before_its_process_handles_signals_is_cancelled(root, small):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell's background processes have it, and pass it on
    try:
        job = jobs.submit(root, generation(small, num_samples=4000))
    finally:
        signal.signal(signal.SIGINT, before)
    jobs.cancel(root, job.id)
    ended(root, job)
    assert jobs.find_job(root, job.id).state == "cancelled"
    assert manifest.samples_written(root / "made") < 4000


def test_no_process_is_started_that_cannot_be_noted(root, small, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    job = None
    with occupied(root, generation(small, "other")):
        job = jobs.submit(root, generation(small))
    (root / "jobs" / "20200101T000000000000-0000" / "cancelled").touch()
    started = len(jobs._PROCESSES)
    monkeypatch.setattr(jobs, "write_text", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            jobs.start_next(root)
    assert len(jobs._PROCESSES) <= started
    monkeypatch.undo()
    monkeypatch.chdir(root.parent)
    assert settled(root, job).state == "finished"


@pytest.mark.usefixtures("busy")
def test_a_job_of_another_version_hides_no_other(root, small, caplog):
    job = jobs.submit(root, generation(small))
    older = root / "jobs" / "20200101T000000000000-0001"
    older.mkdir()
    (older / "task.json").write_text('{"asked_at": "2020-01-01T00:00:00+00:00", "task": {"kind": "dig"}}')
    assert job.id in [each.id for each in jobs.list_jobs(root)]
    assert str(older) in caplog.text
    assert "finish the job with that version, or move the folder elsewhere" in caplog.text
    assert "delete" not in caplog.text


@pytest.fixture
def log(root, small):
    """The log of a job that waits: a function that replaces its bytes and returns its last lines."""
    folder = submitted(root, generation(small), 1)

    def written(content, lines=20):
        (folder / "log.txt").write_bytes(content)
        return jobs.read_log(root, folder.name, lines)

    return written


def test_the_end_of_a_log_is_what_it_says_last(log):
    assert log(b"") == ""
    assert log(b"one\ntwo\n") == "one\ntwo"
    assert log(b"".join(b"line %d\n" % number for number in range(100)), 3) == "line 97\nline 98\nline 99"


def test_bars_and_colours_are_read_as_a_terminal_shows_them(log):
    assert log(b"start\r\n 10 %|#\r 50 %|#####\r100 %|##########\nend\n") == "start\n100 %|##########\nend"
    assert log(b"a\n 10 %\r 50 %\r") == "a\n 50 %"  # under way
    assert log(b"\x1b[31merror\x1b[0m: \x00bad\x07\x1b[K\n") == "error: bad"


def test_characters_that_are_cut_in_two_are_left_out(log):
    micro = "µ".encode()
    assert log(b"5 " + micro + b"s\n7 " + micro[:1]) == "5 µs\n7 "  # being written
    assert log(b"\xff\n") == "\N{REPLACEMENT CHARACTER}"
    for shift in range(2):  # one of them begins in the midst of a character
        text = log(b"x" * shift + micro * 40_000 + b"\n" + micro * 3 + b"\n")
        assert text == "µµµ"


@pytest.mark.parametrize("ends", [b"\n", b"\r", b""])
def test_a_line_longer_than_what_is_read_shows_its_end(log, ends):
    assert set(log(b"x" * 200_000 + ends)) == {"x"}
    bar = b"".join(b" %6d of 100000\r" % number for number in range(100_000))
    assert log(b"begun\n" + bar + b" 100000 of 100000" + ends) == " 100000 of 100000"


def test_a_log_of_a_week_is_read_from_its_end(root, small):
    folder = submitted(root, generation(small), 1)
    with (folder / "log.txt").open("wb") as file:
        file.seek(10_000_000_000)  # a file with a hole
        file.write(b"\nthe end\n")
    assert jobs.read_log(root, folder.name) == "the end"


@pytest.mark.usefixtures("busy")
def test_a_dataset_that_a_job_needs_is_not_deleted(root, small):
    hl.generate(small, out=root / "whole", progress=False)
    job = jobs.submit(root, tasks.Training(folder="r", dataset="whole", architecture="triangulation"))
    with pytest.raises(tasks.JobError, match="cancel it first"):
        jobs.delete_dataset(root, "whole")
    jobs.cancel(root, job.id)
    jobs.delete_dataset(root, "whole")
    assert not (root / "whole").exists()


USE = """
import sys
import heimdall_lab as hl
from heimdall_lab.learning import training
from heimdall_lab.localization import leaderboard
def wait(*_):
    print("begun", flush=True)
    sys.stdin.readline()
    sys.exit()
training.SceneDataModule.measure = leaderboard.with_measurements = wait
if sys.argv[1] == "train":
    training.train(sys.argv[2], "triangulation", out=sys.argv[3], tracking=False, progress=False)
else:
    hl.compare(hl.open_dataset(sys.argv[2]), "tdoa_ls")
"""


@pytest.mark.slow
@pytest.mark.parametrize("use", ["train", "compare"])
def test_a_dataset_that_another_process_uses_is_not_deleted(root, small, use):
    hl.generate(small.model_copy(update={"num_samples": 60}), out=root / "whole", progress=False)
    command = [sys.executable, "-c", USE, use, str(root / "whole"), str(root / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(StoreError, match=r"is being used, as by training .*; wait until that is done, or stop it"):
            jobs.delete_dataset(root, "whole")
        assert set(store.verify(root / "whole").state) == {"ok"}
        process.communicate("go on\n")
    jobs.delete_dataset(root, "whole")
    assert not (root / "whole").exists()


def test_folders_outside_of_the_data_are_not_read(root, small):
    voices = small.signal.model_copy(update={"voice_folder": "/etc"})
    with pytest.raises(tasks.JobError, match=r"signal\.voice_folder: '/etc' is outside"):
        jobs.submit(root, generation(small, signal=voices))
