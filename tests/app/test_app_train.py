"""The page of training: what fits a dataset, what is asked for, and what a finished run offers."""

import asyncio

import onnx
import pytest
from dashboards import no_files_here, submitted, until

import heimdall_lab as hl
from heimdall_lab.app.pages.train import Train
from heimdall_lab.app.service import jobs, tasks
from heimdall_lab.learning import experiments


@pytest.fixture(scope="module")
def root(tmp_path_factory, small):
    """A data folder with a run that a job has finished, on a dataset with IQ, and another dataset."""
    folder = tmp_path_factory.mktemp("train")
    root = folder / "data"
    hl.generate(small.model_copy(update={"num_samples": 60}), out=root / "scenes", progress=False)
    hl.generate(small.model_copy(update={"data_type": "feature_based"}), out=root / "bare", progress=False)
    task = tasks.Training(
        folder="first", dataset="scenes", architecture="triangulation", options={"epochs": 2, "batch_size": 16}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # below which runs are tracked
        hl.train(root / "scenes", task.architecture, out=root / "runs" / "first", progress=False, **task.options)
    jobs.record_end(root, submitted(root, task).name, "finished")
    return root


@pytest.fixture
def submissions(monkeypatch):
    """Tasks that are submitted, none of which is started."""
    submitted_tasks = []
    monkeypatch.setattr(jobs, "start_next", lambda _root: None)
    submit = jobs.submit
    monkeypatch.setattr(jobs, "submit", lambda root, task: submitted_tasks.append(task) or submit(root, task))
    return submitted_tasks


def test_what_does_not_fit_is_disabled_with_the_reason(root, submissions):  # noqa: ARG001  nothing is started
    async def steps():
        page = Train(root)
        await page.refresh()
        page._choice.value = "scenes"
        return page

    page = asyncio.run(steps())
    fits = {name: not card._button.disabled for name, card in page._cards.items()}
    assert fits["triangulation"]
    assert fits["iq_vggnet"]
    assert not fits["localization_net"]
    assert "1 of 2 datasets compatible. Not for this dataset: it takes feature_based" in (
        page._cards["localization_net"]._text.object
    )


def test_what_is_chosen_is_submitted_under_a_name_that_is_free(root, submissions):
    async def steps():
        page = Train(root)
        await page.refresh()
        page._choice.value = "scenes"
        page._choose("triangulation")
        page._options.widgets["epochs"].value = "2"
        for _ in range(2):
            await page._submit(None)
        return page

    page = asyncio.run(steps())
    assert not page._alert.visible, page._alert.object
    assert [task.folder for task in submissions] == ["triangulation-scenes", "triangulation-scenes-2"]
    assert {(task.dataset, task.architecture, task.options["epochs"]) for task in submissions} == {
        ("scenes", "triangulation", 2)
    }
    assert [job.state for job in jobs.list_jobs(root)] == ["finished", "queued", "queued"]


def test_a_finished_run_is_exported_compared_and_promoted(root, submissions):  # noqa: ARG001  nothing is started
    async def steps():
        page = Train(root)
        with no_files_here(root):
            await page.refresh()
            page._table.selection = [0]
            await until(lambda: len(page._curves.data) == 2)
            yield page._about.object
            yield (await page._onnx_file()).getvalue()
            await page._promote_run(None)
            await page.refresh()
        yield page

    async def collected():
        return [each async for each in steps()]

    about, exported, page = asyncio.run(collected())
    assert about.startswith("first: triangulation on los_sync, finished, median error")
    assert {each.key: each.value for each in onnx.load_from_string(exported).metadata_props}["dataset"] == '"los_sync"'
    assert not page._export.disabled
    assert page._export.filename == "first.onnx"
    assert page._compare.href == "compare?dataset=scenes"
    assert page._table.value.registered.tolist() == ["v1, champion"]
    assert experiments.runs(root).champion.tolist() == [True]
