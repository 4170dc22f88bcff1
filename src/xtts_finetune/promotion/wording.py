"""The log in words."""

from xtts_finetune.core.commands import printable
from xtts_finetune.core.errors import Problem
from xtts_finetune.core.layout import Workspace
from xtts_finetune.tracking.promotions import DIGITS, Action, Entry

_VERBS: dict[Action, str] = {"promote": "promoted", "rollback": "went back", "found": "found"}


def told(entry: Entry) -> str:
    """An entry in a line."""
    before = f"version {entry.before}" if entry.before is not None else "none"
    mel = next((rule for rule in entry.rules if rule.name == "eval Mel CE"), None)
    figures = ""
    if mel and mel.champion is not None and mel.candidate is not None:
        figures = f", eval Mel CE {mel.champion:.3f} → {mel.candidate:.3f}"
    failed = ", ".join(rule.name for rule in entry.rules if not rule.passed)
    why = f': "{" ".join(entry.why.split())}"' if entry.why else ""
    text = f"{entry.time}  {_VERBS[entry.action]}: champion {before} → version {entry.champion}{figures}"
    return printable(text + f"{f', FORCED past {failed}' if entry.forced else ''}, by {entry.who}{why}")


def log_name(workspace: Workspace) -> str:
    """The file, as it is named in the checkout."""
    return workspace.promotions.relative_to(workspace.root).as_posix()


def unvouched(workspace: Workspace, entry: Entry, is_gone: bool) -> Problem:
    """Of an entry of the file that may have been made by hand.

    Args:
        is_gone: its version was deleted in MLflow.
    """
    never = (
        "of a version that was deleted in MLflow, with its copy, if it had one" if is_gone else "that MLflow never had"
    )
    what = f"has an entry {never}, and that was not written in this workspace: {told(entry)}"
    there = "" if is_gone else "type promote there, if another clone wrote it and was killed before MLflow had it; "
    remedy = (
        f"was it added or changed by hand? git log -p -- {log_name(workspace)}; then take the line out. {there}"
        f"if you answer for it: xtts-finetune history --vouch {entry.digest[:DIGITS]}"
    )
    return Problem(log_name(workspace), what, remedy)
