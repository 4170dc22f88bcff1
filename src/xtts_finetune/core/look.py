"""One look at the disk: what a report asks for again and again is read once, so that it is quick, and of one moment."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")
_found: ContextVar[dict[Any, Future[Any]] | None] = ContextVar("found", default=None)
_beside: ContextVar[ThreadPoolExecutor] = ContextVar("beside")


@contextmanager
def one_look() -> Iterator[None]:
    """Within it, in this thread, what is `once_a_look` is asked once. One within another is the same look."""
    if _found.get() is not None:
        yield
        return
    with ThreadPoolExecutor(max_workers=1) as threads:
        found, beside = _found.set({}), _beside.set(threads)
        try:
            yield
        finally:
            _beside.reset(beside)
            _found.reset(found)


def once_a_look(function: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """What it gives, or raises, is remembered for the rest of `one_look`: it is not to be changed.

    Its arguments must have a hash. Outside of a look it is asked every time.
    """

    @wraps(function)
    def asked(*given: _Given.args, **named: _Given.kwargs) -> _Found:
        found = _found.get()
        if found is None:
            return function(*given, **named)
        key = (function, given, tuple(named.items()))
        if key not in found:
            found[key] = Future()
            try:
                found[key].set_result(function(*given, **named))
            except BaseException as error:
                found[key].set_exception(error)
                raise
        answer: _Found = found[key].result()
        return answer

    return asked


def ahead(asked: Callable[..., Any], *given: Any) -> None:
    """Begin with what is `once_a_look` beside the rest, as it waits for another program; within a look alone."""
    found = _found.get()
    assert found is not None
    function = asked.__wrapped__  # type: ignore[attr-defined]
    key = (function, given, ())
    if key not in found:
        found[key] = _beside.get().submit(function, *given)
