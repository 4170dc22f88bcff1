"""Progress: a bar that moves in a terminal; in a pipe or a log a line every half a minute, without carriage returns."""

import re
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

_MOVES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # of the cursor, between bars below each other
SECONDS = 30.0  # between two lines; what takes less says nothing

if TYPE_CHECKING:
    _Tqdm = tqdm[Any]
else:
    _Tqdm = tqdm


class Bar(_Tqdm):
    """Tqdm's own, on stderr."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self._is_in_a_log = not sys.stderr.isatty()
        if self._is_in_a_log:
            options |= {"file": _Lines(sys.stderr), "mininterval": SECONDS, "maxinterval": SECONDS, "delay": SECONDS}
        super().__init__(*given, **options)

    def refresh(self, *given: Any, **options: Any) -> None:
        """Also where a description changes: in a log no sooner than it is time for a line."""
        if self.disable or not self._is_in_a_log or time.time() - self.last_print_t >= SECONDS:
            super().refresh(*given, **options)


class _Lines:
    """Where a bar is drawn over itself, a line each time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if line := _MOVES.sub("", text).strip():
            self._stream.write(f"{line}\n")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
