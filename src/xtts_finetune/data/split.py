"""Which clips train the model and which judge it."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.data.batches import rng
from xtts_finetune.data.checks import Accepted


def split(accepted: Sequence[Accepted], eval_fraction: float, seed: int) -> tuple[list[Accepted], list[Accepted]]:
    """Divide the clips into train and eval, each in the order given; eval has int(eval_fraction × clips), or one.

    Systematic sampling: the clips in order of speaker, language and duration are cut into as many runs of equal size
    as eval needs, and one clip is drawn from each, so that eval is like the whole. Clips whose transcript occurs more
    than once all go to train, so that no transcript stands on both sides. Depends on the set of clips and the seed,
    not on the order of metadata.csv.

    Raises:
        UserError: there are too few clips for both sides.
    """
    count = max(1, int(eval_fraction * len(accepted)))
    keys = [transcript_key(item.clip.text) for item in accepted]
    times = Counter(keys)
    candidates = [item for item, key in zip(accepted, keys, strict=True) if times[key] == 1]
    _check_sizes(count, len(accepted), len(candidates), eval_fraction)
    candidates.sort(key=lambda item: (item.clip.speaker, item.clip.language, item.samples, item.clip.id))
    generator = rng("split", seed)
    bounds = [run * len(candidates) // count for run in range(count + 1)]
    drawn = [generator.integers(low, high) for low, high in pairwise(bounds)]
    chosen = {candidates[index].clip.id for index in drawn}
    train = [item for item in accepted if item.clip.id not in chosen]
    return train, [item for item in accepted if item.clip.id in chosen]


def transcript_key(text: str) -> str:
    """What two texts have in common that differ only in case, white space and punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if unicodedata.category(char)[0] not in "CPZ")


def _check_sizes(count: int, clips: int, candidates: int, eval_fraction: float) -> None:
    if clips < 2:
        what, remedy = "one clip is usable, and two are the least: one to train on, one to evaluate", "add clips"
    elif candidates < count:
        sizes = f"eval_fraction {eval_fraction} of {clips} clips is {count} for eval"
        what = f"{sizes}, but only {candidates} clips have a transcript that no other clip has"
        remedy = "lower eval_fraction, or add clips with transcripts of their own"
    else:
        return  # train has clips too: eval_fraction is below 1
    problem = Problem("params.yaml: prepare.eval_fraction", what, remedy)
    raise UserError("the clips cannot be split into train and eval", [problem])
