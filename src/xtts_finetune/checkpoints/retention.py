"""Which states may go: a pure function of what is on disk."""

from collections.abc import Collection


def expendable(steps: Collection[int], keep_last: int, protected: Collection[int]) -> list[int]:
    """The steps whose states can be deleted, oldest first.

    Args:
        steps: of the complete states on disk; incomplete ones never count as kept.
        keep_last: how many of the newest to keep.
        protected: steps that must stay whatever their age.
    """
    assert keep_last >= 1, "the newest state of a run is its resume point"
    newest = sorted(steps)[-keep_last:]
    return [step for step in sorted(steps) if step not in newest and step not in protected]
