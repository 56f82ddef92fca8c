"""Leaderboards as HTML pages, and training runs with their pictures."""

from heimdall_lab.report.page import (
    MEANINGS,
    cautions,
    check_target,
    leaderboard_cells,
    leaderboard_table,
    leaderboard_text,
    write_report,
)

__all__ = [
    "MEANINGS",
    "cautions",
    "check_target",
    "leaderboard_cells",
    "leaderboard_table",
    "leaderboard_text",
    "write_report",
]
