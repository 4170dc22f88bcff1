"""From recordings to a data set: check every clip, write the features, report what came of it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from xtts_finetune.core.bars import Bar
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import sha256_json
from xtts_finetune.core.layout import SplitName
from xtts_finetune.core.params import PrepareParams
from xtts_finetune.data.ahead import work_ahead
from xtts_finetune.data.audio import Samples, digest, load_audio
from xtts_finetune.data.checks import Accepted, ClipRejected, EncodeText, Rejection, check_audio, check_text
from xtts_finetune.data.clips import METADATA, Clip
from xtts_finetune.data.features import FeatureWriter

T = TypeVar("T")
R = TypeVar("R")
EncodeAudio = Callable[[Samples], npt.NDArray[np.integer]]  # (samples,) at SAMPLE_RATE → (codes,)


def accept(
    clips: Sequence[Clip], params: PrepareParams, encode_text: EncodeText
) -> tuple[list[Accepted], list[Rejection]]:
    """Decode and check every clip, with a progress bar; both lists are in their order.

    No sound is kept: of a clip stays what metadata.csv says, its tokens and its digest.

    Args:
        encode_text: (text, language) → token ids; raises ClipRejected for text that the vocabulary lacks.
    """
    accepted: list[Accepted] = []
    rejected: list[Rejection] = []
    seen = _Seen()
    for clip, sound in _progress(lambda clip: _hear(clip, params), clips, "checking clips"):
        try:
            seen.refuse_id(clip)
            tokens = check_text(clip, encode_text, params)
            heard = sound.result()
            seen.add(clip, heard.digest)
            accepted.append(Accepted(clip, heard.samples, tokens, heard.rate, heard.channels, heard.digest))
        except ClipRejected as rejection:
            rejected.append(Rejection(clip, rejection.reason))
    return accepted, rejected


def refuse_without_clips(data: Path, accepted: Sequence[Accepted], rejected: Sequence[Rejection]) -> None:
    """Raise UserError where no clip is usable: what is wrong with the first of them, and how often which kind is."""
    if accepted:
        return
    kinds = ", ".join(f"{count} × {kind}" for kind, count in _counts(each.kind for each in rejected).items())
    remedy = "correct the recordings or their lines, or the limits in params.yaml: prepare"
    if any(each.kind == "text not encodable" for each in rejected):
        remedy += "; characters that the vocabulary lacks are added by vocabulary.extend: auto"
    first = [Problem(f"{data.name}/{METADATA}:{each.clip.line}", each.reason, remedy) for each in rejected[:5]]
    summary = Problem(f"{data.name}/{METADATA}", f"all {len(rejected)} clips are rejected: {kinds}", remedy)
    raise UserError("no clip is usable", [summary, *first])


def write_features(
    prepared: Path, split: SplitName, accepted: Sequence[Accepted], encode_audio: EncodeAudio
) -> dict[str, str]:
    """Write a split's features into the folder `prepared`, with a progress bar.

    The recordings are decoded a second time: to keep them from `accept` on takes memory or disk.

    Args:
        encode_audio: (samples,) float32 at SAMPLE_RATE → (ceil(samples / CODE_STRIDE),) codes or more; is called
            from several threads at once.

    Returns:
        SHA-256 of every file, by its name.

    Raises:
        UserError: a recording is not the one that was accepted any more.
    """

    def encode(item: Accepted) -> tuple[Samples, npt.NDArray[np.integer]]:
        samples = _hear_again(item)
        return samples, encode_audio(samples)

    with FeatureWriter(prepared, split) as writer:
        for item, encoded in _progress(encode, accepted, f"encoding {split}"):
            writer.add(item.clip, *encoded.result(), item.tokens)
    return writer.digests


def dataset_report(
    data: Path, train: Sequence[Accepted], evaluation: Sequence[Accepted], rejected: Sequence[Rejection]
) -> dict[str, Any]:
    """What reports/dataset.json says; equal data sets give equal reports, wherever they lie."""
    accepted = [*train, *evaluation]
    return {
        "clips": {
            "read": len(accepted) + len(rejected),
            "accepted": len(accepted),
            "rejected": len(rejected),
            "train": len(train),
            "eval": len(evaluation),
        },
        "hours": {"train": _hours(train), "eval": _hours(evaluation)},
        "seconds": _summary([item.seconds for item in accepted]),
        "tokens": _summary([len(item.tokens) for item in accepted]),
        "speakers": _counts(item.clip.speaker for item in accepted),
        "languages": _counts(item.clip.language for item in accepted),
        "sample_rates": _counts(item.rate for item in accepted),
        "channels": _counts(item.channels for item in accepted),
        "rejected_by_kind": _counts(rejection.kind for rejection in rejected),
        "rejected": [_rejection_report(data, rejection) for rejection in rejected],
        "split_digest": sha256_json([sorted(item.clip.id for item in side) for side in (train, evaluation)]),
    }


def _progress(function: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[tuple[T, Future[R]]]:
    """Each clip and what `function` made of it, ahead of its turn."""
    bar = Bar(items, desc=what, unit="clip", mininterval=0.5)
    yield from zip(bar, work_ahead(function, items), strict=True)


@dataclass(frozen=True)
class _Heard:
    """What is kept of a recording's sound."""

    samples: int
    rate: int
    channels: int
    digest: bytes


def _hear(clip: Clip, params: PrepareParams) -> _Heard:
    audio = load_audio(clip.audio)
    check_audio(audio.samples, params)
    return _Heard(len(audio.samples), audio.rate, audio.channels, digest(audio.samples))


def _hear_again(item: Accepted) -> Samples:
    try:
        samples = load_audio(item.clip.audio).samples
        what = "" if digest(samples) == item.digest else "holds another sound"
    except ClipRejected as rejection:
        what = rejection.reason
    if what:
        where = f"{item.clip.audio.parent.name}/{item.clip.audio.name}"
        remedy = "leave data/ alone while `prepare` runs, and run: dvc repro"
        raise UserError("a recording changed while it was being prepared", [Problem(where, what, remedy)])
    return samples


@dataclass
class _Seen:
    """Ids and sounds of accepted clips, with their lines of metadata.csv."""

    ids: dict[str, int] = field(default_factory=dict)
    sounds: dict[bytes, int] = field(default_factory=dict)

    def refuse_id(self, clip: Clip) -> None:
        if line := self.ids.get(clip.id):
            raise ClipRejected(f"repeated id: the same as in line {line}")

    def add(self, clip: Clip, sound: bytes) -> None:
        if line := self.sounds.get(sound):
            raise ClipRejected(f"repeated audio: the same as in line {line}")
        self.ids[clip.id] = self.sounds[sound] = clip.line


def _rejection_report(data: Path, rejection: Rejection) -> dict[str, Any]:
    clip = rejection.clip
    file = clip.audio.relative_to(data.absolute()).as_posix()
    return {"id": clip.id, "line": clip.line, "file": file, "reason": rejection.reason}


def _hours(items: Sequence[Accepted]) -> float:
    return round(sum(item.seconds for item in items) / 3600, 4)


def _counts(values: Iterable[str | int]) -> dict[str, int]:
    return dict(Counter(map(str, values)).most_common())


def _summary(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    statistics = {"min": min(values), "median": median(values), "mean": mean(values), "max": max(values)}
    return {name: round(float(value), 3) for name, value in statistics.items()}
