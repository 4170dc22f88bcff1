"""Progress: a bar that moves in a terminal; in a pipe or a log a line every half a minute, without carriage returns."""

import sys
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

SECONDS = 30.0  # between two lines; what takes less says nothing

if TYPE_CHECKING:
    _Tqdm = tqdm[Any]
else:
    _Tqdm = tqdm


class Bar(_Tqdm):
    """Tqdm's own, on stderr."""

    def __init__(self, *given: Any, **options: Any) -> None:
        if not sys.stderr.isatty():
            options |= {"file": _Lines(sys.stderr), "mininterval": SECONDS, "maxinterval": SECONDS, "delay": SECONDS}
        super().__init__(*given, **options)


class _Lines:
    """Where a bar is drawn over itself, a line each time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if line := text.strip():
            self._stream.write(f"{line}\n")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
