"""What is accepted and what is rejected, with the value and the limit in the reason."""

import numpy as np
import numpy.typing as npt
import pytest
from making.recordings import noise
from stand_ins import accepted_clip, encode_text

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.core.params import PrepareParams
from xtts_finetune.data.checks import ClipRejected, check_audio, check_text


def audio_rejection(samples: npt.NDArray[np.float32], params: PrepareParams) -> str:
    with pytest.raises(ClipRejected) as caught:
        check_audio(samples, params)
    return caught.value.reason


def text_rejection(text: str, params: PrepareParams) -> str:
    with pytest.raises(ClipRejected) as caught:
        check_text(accepted_clip("a", text).clip, encode_text, params)
    return caught.value.reason


def test_duration_limits_are_inclusive(params: PrepareParams) -> None:
    check_audio(noise(0, params.min_seconds), params)
    check_audio(noise(0, params.max_seconds), params)


def test_too_short(params: PrepareParams) -> None:
    assert audio_rejection(noise(0, 0.31), params) == "too short: 0.31 s, min_seconds is 0.5"


def test_too_long(params: PrepareParams) -> None:
    assert audio_rejection(noise(0, 12.5), params) == "too long: 12.50 s, max_seconds is 11.6"


def test_silence(params: PrepareParams) -> None:
    assert audio_rejection(noise(0, 1, level=0.001), params).startswith("silence: -60.")
    assert audio_rejection(np.zeros(SAMPLE_RATE, np.float32), params).startswith("silence: -inf dBFS")
    check_audio(noise(0, 1, level=0.003), params)  # -50 dBFS


def test_clipped(params: PrepareParams) -> None:
    samples = noise(0, 1)[:20_000]
    samples[:200] = 32_767 / 32_768
    check_audio(samples, params)  # 1 %: as many as are allowed
    samples[:1000] = -1
    assert audio_rejection(samples, params) == (
        "clipped: 5.0% of the samples at full scale, max_clipped_fraction is 0.01"
    )


def test_tokens_of_a_good_text(params: PrepareParams) -> None:
    tokens = check_text(accepted_clip("a", "ab").clip, encode_text, params)
    assert tokens.dtype == np.int32 and tokens.tolist() == [97, 98]


def test_no_text(params: PrepareParams) -> None:
    assert text_rejection("", params).startswith("no text")


def test_text_limit_is_inclusive(params: PrepareParams) -> None:
    check_text(accepted_clip("a", "x" * 200).clip, encode_text, params)
    assert text_rejection("x" * 201, params) == "text too long: 201 tokens, max_text_tokens is 200"


def test_what_the_vocabulary_lacks_is_named(params: PrepareParams) -> None:
    def refuse(text: str, language: str) -> list[int]:
        raise ClipRejected(f"unknown characters: {text[-1]!r} ({language})")

    with pytest.raises(ClipRejected, match=r"unknown characters: '☃' \(en\)"):
        check_text(accepted_clip("a", "snow ☃").clip, refuse, params)
