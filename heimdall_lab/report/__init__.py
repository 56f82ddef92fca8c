"""Leaderboards as HTML pages (`page`), and training with pictures of its result (`runs`)."""

from heimdall_lab.report.page import write_report

__all__ = ["write_report"]
