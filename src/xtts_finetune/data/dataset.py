"""From recordings to a data set: check every clip, write the features, report what came of it."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import sha256_json
from xtts_finetune.core.layout import SplitName
from xtts_finetune.core.params import PrepareParams
from xtts_finetune.data.audio import Samples, load_audio, quantise
from xtts_finetune.data.checks import Accepted, ClipRejected, EncodeText, Rejection, check_audio, check_text
from xtts_finetune.data.clips import METADATA, Clip, read_metadata
from xtts_finetune.data.features import FeatureWriter

T = TypeVar("T")
EncodeAudio = Callable[[Samples], npt.NDArray[np.integer]]  # (samples,) at SAMPLE_RATE → (codes,)


def accept(data: Path, params: PrepareParams, encode_text: EncodeText) -> tuple[list[Accepted], list[Rejection]]:
    """Decode and check every clip of `data`, with a progress bar; both lists are in the order of metadata.csv.

    Args:
        encode_text: (text, language) → token ids; raises ClipRejected for text that the vocabulary lacks.

    Raises:
        UserError: metadata.csv is malformed, or no clip is usable.
    """
    accepted: list[Accepted] = []
    rejected: list[Rejection] = []
    seen: dict[tuple[str, str], int] = {}  # (kind, value) → line of metadata.csv
    for clip in _progress(read_metadata(data, params.language), "checking clips"):
        try:
            accepted.append(_examined(clip, params, encode_text, seen))
        except ClipRejected as rejection:
            rejected.append(Rejection(clip, rejection.reason))
    if not accepted:
        raise _nothing_usable(data, rejected)
    return accepted, rejected


def write_features(
    prepared: Path, split: SplitName, accepted: Sequence[Accepted], encode_audio: EncodeAudio
) -> dict[str, str]:
    """Write a split's features into the folder `prepared`, with a progress bar.

    Args:
        encode_audio: (samples,) float32 at SAMPLE_RATE → (ceil(samples / CODE_STRIDE),) codes or more.

    Returns:
        SHA-256 of every file, by its name.
    """
    with FeatureWriter(prepared, split) as writer:
        for item in _progress(accepted, f"encoding {split}"):
            samples = load_audio(item.clip.audio).samples
            assert len(samples) == item.samples, f"{item.clip.audio} changed while it was being prepared"
            writer.add(item.clip, samples, encode_audio(samples), item.tokens)
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


def _progress(items: Sequence[T], what: str) -> Iterable[T]:
    bar: Iterable[T] = tqdm(items, desc=what, unit="clip", mininterval=0.5)
    return bar


def _examined(clip: Clip, params: PrepareParams, encode_text: EncodeText, seen: dict[tuple[str, str], int]) -> Accepted:
    """The clip with its measures, noted in `seen`; raises ClipRejected."""
    _refuse_repeat(seen, "repeated id", clip.id)
    tokens = check_text(clip, encode_text, params)
    audio = load_audio(clip.audio)
    check_audio(audio.samples, params)
    digest = hashlib.sha256(quantise(audio.samples).tobytes()).hexdigest()
    _refuse_repeat(seen, "repeated audio", digest)
    seen["repeated id", clip.id] = seen["repeated audio", digest] = clip.line
    return Accepted(clip, len(audio.samples), tokens, audio.rate, audio.channels)


def _refuse_repeat(seen: dict[tuple[str, str], int], kind: str, value: str) -> None:
    if (kind, value) in seen:
        raise ClipRejected(f"{kind}: the same as in line {seen[kind, value]}")


def _nothing_usable(data: Path, rejected: Sequence[Rejection]) -> UserError:
    kinds = ", ".join(f"{count} × {kind}" for kind, count in _counts(each.kind for each in rejected).items())
    remedy = "correct the recordings or their lines, or the limits in params.yaml: prepare"
    first = [Problem(f"{data.name}/{METADATA}:{each.clip.line}", each.reason, remedy) for each in rejected[:5]]
    summary = Problem(f"{data.name}/{METADATA}", f"all {len(rejected)} clips are rejected: {kinds}", remedy)
    return UserError("no clip is usable", [summary, *first])


def _rejection_report(data: Path, rejection: Rejection) -> dict[str, Any]:
    clip = rejection.clip
    file = clip.audio.relative_to(data.absolute()).as_posix()
    return {"id": clip.id, "line": clip.line, "file": file, "reason": rejection.reason}


def _hours(items: Sequence[Accepted]) -> float:
    return round(sum(item.seconds for item in items) / 3600, 4)


def _counts(values: Iterable[str | int]) -> dict[str, int]:
    return dict(Counter(map(str, values)).most_common())


def _summary(values: Sequence[float]) -> dict[str, float]:
    statistics = {"min": min(values), "median": median(values), "mean": mean(values), "max": max(values)}
    return {name: round(float(value), 3) for name, value in statistics.items()}
