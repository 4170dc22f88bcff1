import socket
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import pytest
import soundfile
from making.project import SAMPLES
from making.recordings import sample_lines

from xtts_finetune.measures.measured import Measurer, Recording


def recording(line: str) -> Recording:
    """One of the starter recordings, by its line of metadata.csv."""
    name, _, text = line.split("|")
    samples, rate = soundfile.read(SAMPLES / "wavs" / f"{name}.ogg", dtype="float32")
    return Recording(samples, rate, text)


@pytest.fixture(scope="session")
def clips() -> list[Recording]:
    """Eight sentences of the starter's speaker."""
    return [recording(line) for line in sample_lines(8)]


@pytest.fixture(scope="session")
def measurer(clips: list[Recording]) -> Measurer:
    """Of that voice, from other sentences than the first four."""
    return Measurer(clips[4:], "en")


@pytest.fixture(scope="module", autouse=True)  # other rooms' tests do ask
def _no_network() -> Iterator[None]:
    """Whoever here asks for a connection, or a name, is a bug."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a measure asked for the network")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


@pytest.fixture
def tone() -> np.ndarray:
    """A second of a voice-like buzz at 120 Hz."""
    time = np.arange(16_000) / 16_000
    return sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20)).astype(np.float32) * 0.1
