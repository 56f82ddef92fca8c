"""The process of one job: ``python -m heimdall_lab.app.service.job_process ROOT JOB``."""

import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

from heimdall_lab.app.service import jobs, tasks
from heimdall_lab.simulation.generate import generate_folder


def main(root: Path, identity: str) -> None:
    """Do a job and record how it ended; one that is interrupted but not cancelled is left to be started again."""
    signal.signal(signal.SIGINT, _interrupt)  # a server started in the background ignores it, and so would this process
    jobs.record_process(root, identity)
    task = jobs.find_job(root, identity).task
    folder = tasks.output_folder(root, task)
    try:
        if jobs.is_cancelled(root, identity):  # before this process could be interrupted
            raise KeyboardInterrupt
        if isinstance(task, tasks.Generation):
            generate_folder(task.config, folder, workers=task.workers)
        else:
            from heimdall_lab.report.runs import train  # imports torch, which takes seconds

            train(root / task.dataset, task.architecture, out=folder, parameters=task.parameters, **task.options)
    except KeyboardInterrupt as interrupt:
        if jobs.is_cancelled(root, identity):
            jobs.record_end(root, identity, "cancelled", str(interrupt))
    except Exception as error:
        traceback.print_exc()
        jobs.record_end(root, identity, "failed", str(error) or type(error).__name__)
    else:
        jobs.record_end(root, identity, "finished")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
