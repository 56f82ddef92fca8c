"""Jobs on a page: which are listed, and what their logs say while they are open."""

import asyncio

import pytest
from dashboards import occupied, submitted

from heimdall_lab.app.parts.job_list import JobList
from heimdall_lab.app.service import jobs, tasks
from heimdall_lab.app.service.snapshot import take_snapshot


@pytest.fixture
def folders(tmp_path, small):
    """Folders of a running job, one that waits and one that failed, in this order."""
    failed = submitted(tmp_path, tasks.Generation(folder="broken", config=small), 1)
    (failed / "log.txt").write_text("Traceback\nValueError: gate.max_gdop\n")
    jobs.record_end(tmp_path, failed.name, "failed", "gate.max_gdop: refuses all")
    waiting = submitted(tmp_path, tasks.Generation(folder="later", config=small), 2)
    with occupied(tmp_path, tasks.Generation(folder="now", config=small)) as running:
        (running / "log.txt").write_text(" 10 %\r 50 %")
        yield running, waiting, failed


def test_open_logs_show_the_last_lines_and_follow_them(folders, tmp_path):
    listed = JobList(tmp_path, "generate")

    def logs():
        rows = (listed._rows[folder.name] for folder in folders)
        return [row.log.object if row.log.visible else None for row in rows]

    async def steps():
        await listed.update(take_snapshot(tmp_path, fresh=True))
        yield logs()
        for folder in folders:
            await listed._toggle_log(folder.name)
        yield logs()
        (folders[0] / "log.txt").write_text(" 10 %\r 50 %\r100 %\ndone\n")
        await listed.update(take_snapshot(tmp_path, fresh=True))
        yield logs()
        await listed._toggle_log(folders[0].name)
        yield logs()

    async def collected():
        return [each async for each in steps()]

    closed, opened, later, one_closed = asyncio.run(collected())
    failure = "Traceback\nValueError: gate.max_gdop"
    assert closed == [None] * 3
    assert opened == [" 50 %", "It has printed nothing yet.", failure]
    assert later == ["100 %\ndone", "It has printed nothing yet.", failure]
    assert one_closed == [None, *later[1:]]
    row = listed._rows[folders[2].name]
    assert row.alert.visible
    assert row.alert.object == "gate.max_gdop: refuses all"
