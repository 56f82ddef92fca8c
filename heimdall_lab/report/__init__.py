"""Leaderboards as HTML pages, and training runs with their pictures."""

from heimdall_lab.report.page import write_report

__all__ = ["write_report"]
