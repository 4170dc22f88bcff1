"""Write a report where people look: reports/status.md with its picture, and reports/index.html."""

import sys
import traceback

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.disk import full_disk_raises, is_disk_full
from xtts_finetune.core.errors import DiskFull, UserError
from xtts_finetune.core.files import write_text
from xtts_finetune.core.layout import Workspace
from xtts_finetune.report import charts
from xtts_finetune.report.gathering import Stage, gather
from xtts_finetune.report.markdown import markdown_of
from xtts_finetune.report.page import page_of
from xtts_finetune.tracking.journal import journal


def write_pages(
    workspace: Workspace, ended: Stage | None = None, is_stage: bool = False, is_brief: bool = False
) -> None:
    """Say where the run stands. What keeps it from that is said, and ends no stage: all results are there by now.

    Not in the copy of an experiment of DVC's queue, which is deleted with all that is in it.

    Args:
        ended: the stage that calls, as its last act; None: one that stopped, or none.
        is_stage: one of both calls.
        is_brief: it only begins to train, and waits: reports/status.md, without its picture, takes tenths of a second.
    """
    if workspace.is_copy:
        return
    try:
        _write(workspace, ended, is_stage, is_brief)
    except Exception as error:  # noqa: BLE001 - of a report no stage may fail
        if is_disk_full(error):
            _forget_pages(workspace)  # they say what is not so now
            print("reports/status.md and index.html have no room", file=sys.stderr)
            return
        if isinstance(error, UserError | OSError):  # what is damaged, or may not be written
            print(f"reports/status.md and index.html could not be written: {error}", file=sys.stderr)
            return
        traceback.print_exc()
        print("reports/status.md and index.html could not be written, for the reason above", file=sys.stderr)


def _write(workspace: Workspace, ended: Stage | None, is_stage: bool, is_brief: bool) -> None:
    report, happenings = gather(workspace, ended, is_stage=is_stage), journal(workspace)
    plain = as_typed(markdown_of(report, None))
    _write_first(workspace, plain)
    if is_brief:
        if not report.phases[0].evaluations:  # it begins: what was there is of another run
            _forget_pages(workspace)
        return
    curves = charts.curves(report, happenings)
    if curves is None:  # before the first evaluation there is nothing to look at: what was there is of another run
        _forget_pages(workspace)
        return
    write_text(workspace.status_picture, charts.picture(curves))
    write_text(workspace.status_page, as_typed(markdown_of(report, workspace.status_picture.name)))
    write_text(workspace.report_page, page_of(workspace, report, happenings))


def _forget_pages(workspace: Workspace) -> None:
    for page in (workspace.status_picture, workspace.report_page):
        page.unlink(missing_ok=True)


def _write_first(workspace: Workspace, page: str) -> None:
    """A page of before says what is not so any more: where two have no room, it goes."""
    try:
        with full_disk_raises():
            write_text(workspace.status_page, page)
    except DiskFull:
        workspace.status_page.unlink(missing_ok=True)
        write_text(workspace.status_page, page)
