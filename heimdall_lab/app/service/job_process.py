"""The process of one job: ``python -m heimdall_lab.app.service.job_process ROOT JOB``."""

import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

from heimdall_lab.app.service import jobs
from heimdall_lab.simulation.generate import generate


def main(root: Path, identity: str) -> None:
    """Do a job, and note how it ended; what is interrupted without being cancelled is left to be started again."""
    signal.signal(signal.SIGINT, _interrupt)  # a server started in the background ignores it, and so would this process
    jobs.begin(root, identity)
    task = jobs.job(root, identity).task
    folder = jobs.target(root, task)
    try:
        if jobs.is_cancelled(root, identity):  # while this process could not be told yet
            raise KeyboardInterrupt
        if isinstance(task, jobs.Generation):
            generate(task.config, folder, workers=task.workers)
        else:
            from heimdall_lab.report.runs import train  # imports torch, which takes seconds

            train(root / task.dataset, task.architecture, out=folder, parameters=task.parameters, **task.options)
    except KeyboardInterrupt as interrupt:
        if jobs.is_cancelled(root, identity):
            jobs.end(root, identity, "cancelled", str(interrupt))
    except Exception as error:
        traceback.print_exc()
        jobs.end(root, identity, "failed", str(error) or type(error).__name__)
    else:
        jobs.end(root, identity, "finished")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
