"""Losses of single clips, and how sure their mean is."""

import numpy as np
import pytest
from making.batches import random_batch

from xtts_finetune.data.batches import Batch
from xtts_finetune.model.xtts import GPT, TorchMelSpectrogram
from xtts_finetune.training import loss
from xtts_finetune.training.loss import TokenSums
from xtts_finetune.training.per_clip import evaluate_clips, intervals


def test_the_clips_together_are_the_whole(mini_gpt: GPT, conditioning_mel: TorchMelSpectrogram) -> None:
    batches = [random_batch(3), random_batch(5)]
    whole = loss.evaluate(mini_gpt, conditioning_mel, batches)
    clips = evaluate_clips(mini_gpt, conditioning_mel, batches)
    assert len(clips) == 8
    together = sum(clips, TokenSums())
    assert (together.mel_tokens, together.text_tokens) == (whole.mel_tokens, whole.text_tokens)
    assert together.mel_ce == pytest.approx(whole.mel_ce, rel=1e-6)
    assert together.text_ce == pytest.approx(whole.text_ce, rel=1e-6)


def single(batch: Batch, clip: int) -> Batch:
    """One clip of a batch by itself."""
    text, codes = (
        np.split(rows, lengths.cumsum()[:-1])[clip]
        for rows, lengths in ((batch.text, batch.text_lengths), (batch.codes, batch.code_lengths))
    )
    return Batch(
        text=text,
        text_lengths=batch.text_lengths[[clip]],
        codes=codes,
        code_lengths=batch.code_lengths[[clip]],
        conditioning=batch.conditioning[[clip]],
        conditioning_spans=batch.conditioning_spans[[clip]],
    )


def test_a_clip_has_the_losses_beside_others_that_it_has_alone(
    mini_gpt: GPT, conditioning_mel: TorchMelSpectrogram
) -> None:
    batch = random_batch(3)
    for clip, beside in enumerate(evaluate_clips(mini_gpt, conditioning_mel, [batch])):
        alone = loss.evaluate(mini_gpt, conditioning_mel, [single(batch, clip)])
        assert (beside.mel_tokens, beside.text_tokens) == (alone.mel_tokens, alone.text_tokens)
        assert (beside.mel, beside.text) == pytest.approx((alone.mel, alone.text), rel=1e-5)


def drawn(clips: int, seed: int) -> list[TokenSums]:
    """Clips of a model whose Mel CE is 4 and whose Text CE is 3: longer ones are no better and no worse."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(50, 200, size=clips)
    mel, text = tokens * generator.normal(4, 0.4, clips), tokens * generator.normal(3, 0.2, clips)
    return [TokenSums(float(m), int(n), float(t), int(n)) for m, t, n in zip(mel, text, tokens, strict=True)]


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(100):
        low, high = intervals(drawn(46, seed))["mel_ce"] or (0, 0)
        held += low <= 4 <= high
    assert 88 <= held <= 100  # 95 by its word


def test_more_clips_are_surer() -> None:
    few, many = intervals(drawn(10, 1)), intervals(drawn(1000, 1))
    for surer, less_sure in ((many["mel_ce"], few["mel_ce"]), (many["text_ce"], few["text_ce"])):
        assert surer and less_sure
        assert surer[1] - surer[0] < 0.3 * (less_sure[1] - less_sure[0])


def test_the_same_clips_give_the_same_bounds() -> None:
    assert intervals(drawn(20, 3)) == intervals(drawn(20, 3))


@pytest.mark.parametrize("clips", [drawn(1, 1), drawn(1, 1) * 5])
def test_what_says_nothing_of_other_clips_has_no_interval(clips: list[TokenSums]) -> None:
    assert intervals(clips) == {"mel_ce": None, "text_ce": None}
