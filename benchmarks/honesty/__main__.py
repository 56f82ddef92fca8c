"""Make the table: ``python -m honesty`` with this folder's parent on the path, as ``make honesty`` does."""

import argparse
import re
import sys
import time
from concurrent.futures import as_completed
from pathlib import Path

from heimdall_lab.core.files import write_text
from heimdall_lab.core.processes import process_pool, start_of_workers
from honesty import page
from honesty.cells import Cell, judge
from honesty.rows import REAL, ROWS, Row, real_folder


def main() -> None:
    """Judge all rows in worker processes and write the page."""
    arguments = _parser().parse_args()
    chosen = [row for row in ROWS if re.search(arguments.rows, f"{row.dataset} {row.disturbance}")]
    absent = [row for row in chosen if row.dataset in REAL and real_folder() is None]
    judged = _judge([row for row in chosen if row not in absent], arguments)
    in_order = {row: judged[row] for row in chosen if row in judged}
    write_text(arguments.out, page.text(in_order, absent, arguments.scenes, arguments.few))


def _judge(rows: list[Row], arguments: argparse.Namespace) -> dict[Row, list[Cell]]:
    judged, began = {}, time.monotonic()
    with process_pool(arguments.workers) as pool:
        with start_of_workers():
            waiting = {pool.submit(judge, row, arguments.scenes, arguments.few): row for row in rows}
        for done in as_completed(waiting):
            judged[waiting[done]] = done.result()
            print(f"{len(judged)}/{len(rows)} {time.monotonic() - began:.0f} s: {waiting[done].title}", file=sys.stderr)
    return judged


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("honesty", description="Make the table of how far fixes can be believed.")
    parser.add_argument("--out", type=Path, default=Path("docs/honesty.md"), help="page to write")
    parser.add_argument("--scenes", type=int, default=1000, help="simulated scenes of a row")
    parser.add_argument("--few", type=int, default=300, help="of them for methods on IQ")
    parser.add_argument("--workers", type=int, default=2, help="processes side by side")
    parser.add_argument("--rows", default="", help="regular expression: of rows, as 'random clock'; by default all")
    return parser


if __name__ == "__main__":
    main()
