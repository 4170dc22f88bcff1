"""What a stage says must not end it: whoever reads may leave (`dvc repro | head`), and a log's disk be full."""

import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO


def speak_on_unheard() -> None:
    """Let this process go on when stdout or stderr cannot be written to, or lacks a letter."""
    spell_out_what_is_lacking()
    sys.stdout, sys.stderr = _Unfailing(sys.stdout), _Unfailing(sys.stderr)


def spell_out_what_is_lacking() -> None:
    """Have stdout write a letter that its encoding lacks as its number, as stderr does: else it ends this process."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class _Unfailing:
    """A text stream that drops what it cannot write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BrokenPipeError:  # for good; what is buffered must go somewhere when the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        except OSError:  # a full disk may have room again, a terminal that is gone never comes back
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
