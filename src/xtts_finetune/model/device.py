"""Where tensors live, and the settings that make a run repeat bit for bit."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def pick_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_in_words() -> str:
    """Where the work is done; of the CPU also why it is not a GPU."""
    if torch.cuda.is_available():
        return f"on {torch.cuda.get_device_name()}"
    reason = "PyTorch sees no GPU" if torch.version.cuda else "this build of PyTorch knows no GPU: docs/windows.md"
    return f"on the CPU ({reason})"


def make_deterministic() -> None:
    """Only deterministic algorithms from here on; for CUDA's matrix products too.

    See https://pytorch.org/docs/stable/notes/randomness.html.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # A tenth of the time of a step, and for debugging alone.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # fp32 means it


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU may round the factors of fp32 matrix products and convolutions to TF32's 10 bits meanwhile."""
    places: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = allowed
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value
