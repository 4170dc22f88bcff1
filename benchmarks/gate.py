"""Whether the gate hears: how often made damage is refused as worse, and an equal model's speech is not.

    python benchmarks/gate.py                               # the starter recordings
    python benchmarks/gate.py --data DATA --other OTHER     # DATA, OTHER: two speakers, in folders of LJSpeech's shape
    python benchmarks/gate.py --workspace WORKSPACE         # mini's own speech, where `make repro` ran

Prints a table: of the trials, the percentage in which the candidate was refused; then a line of JSON. A trial draws
--sentences of --pool anew. The candidate's are damaged, the other model's are:

same: the same sentences. Of recordings, touched lightly: another level, a later start, half a percent of the rate. Of
a workspace's model, spoken with another seed.
others: other sentences altogether. They differ more than two seeds of a model can: the worst case.

In the last row nothing is damaged: the models are equal. Trials share one pool, so their percentages are no surer than
so many recordings make them. DATA's recordings after the pool are the speaker's voice.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
from damages import Damage, damages, touched
from tqdm import tqdm

from xtts_finetune.data.audio import load_audio
from xtts_finetune.measures.measured import Measurer, Measures, Recording
from xtts_finetune.measures.paired import compare

SAMPLES = Path(__file__).parent.parent / "samples"
VOICE = 20  # recordings of the speaker
RENDITIONS = 3  # of each sentence, by what is an equal model
EQUAL = ("nothing: an equal model", "")

Row = tuple[str, str]  # damage, strength
Shares = dict[Row, dict[str, float]]  # "same", "others": refused, of the trials


def recordings(data: Path, count: int) -> list[Recording]:
    """So many of a data set, evenly spread."""
    lines = (data / "metadata.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) >= count, f"{data} has {len(lines)} recordings, {count} are needed"
    rows = [lines[at * len(lines) // count].split("|") for at in range(count)]
    files = {file.stem: file for file in (data / "wavs").iterdir()}
    loaded = [(load_audio(files[row[0]]), row[-1]) for row in tqdm(rows, desc="reading", unit="clip")]
    return [Recording(audio.samples, 22_050, text) for audio, text in loaded]


def spoken(workspace: Path, texts: Sequence[str], seed: int) -> list[Recording]:
    """The sentences by models/phase2 of a workspace; each seed says them in its own way."""
    from xtts_finetune.core.layout import REFERENCE, WEIGHTS, Workspace
    from xtts_finetune.core.params import load_params
    from xtts_finetune.data.batches import torch_seed
    from xtts_finetune.model.base import Base
    from xtts_finetune.speech import speaker

    place = Workspace(workspace)
    base, settings = Base.prepared(place), load_params(workspace / "params.yaml").evaluate
    one = speaker.Speaker(base.gpt(place.model("phase2") / WEIGHTS), base, place.prepared / REFERENCE, settings)
    with patch.object(speaker, "torch_seed", lambda *parts: torch_seed(*parts, seed)):
        said = [one.speak(text, "en") for text in tqdm(texts, desc=f"speaking, seed {seed}", unit="sentence")]
    return [Recording(sound, rate, text) for (sound, rate), text in zip(said, texts, strict=True)]


def renditions(
    arguments: argparse.Namespace, pool: list[Recording], draw: np.random.Generator
) -> list[list[Recording]]:
    """The pool's sentences several times, as equal models would say them; the first are to be damaged."""
    if arguments.workspace:
        return [spoken(arguments.workspace, [each.text for each in pool], seed) for seed in range(RENDITIONS)]
    return [pool, *([touched(each, draw) for each in pool] for _ in range(RENDITIONS - 1))]


class Trials:
    """Candidates and others, drawn from what was measured once."""

    def __init__(self, equals: list[list[Measures]], arguments: argparse.Namespace, draw: np.random.Generator) -> None:
        self.equals, self.draw = equals, draw
        self.pool, self.sentences, self.trials = arguments.pool, arguments.sentences, arguments.trials

    def refused(self, candidate: list[Measures] | None) -> dict[str, float]:
        """How often; without a candidate, of an equal model."""
        same, others = 0, 0
        for _ in range(self.trials):
            first, second = self.draw.permutation(len(self.equals))[:2] if candidate is None else (0, self.any_other())
            ours = self.equals[first] if candidate is None else candidate
            drawn = self.draw.permutation(self.pool)
            chosen, elsewhere = drawn[: self.sentences], drawn[self.sentences : 2 * self.sentences]
            picked = [ours[at] for at in chosen]
            same += self.is_refused(picked, [self.equals[second][at] for at in chosen])
            others += self.is_refused(picked, [self.equals[second][at] for at in elsewhere])
        return {"same": same / self.trials, "others": others / self.trials}

    def any_other(self) -> int:
        return int(self.draw.integers(1, len(self.equals)))

    @staticmethod
    def is_refused(candidate: list[Measures], other: list[Measures]) -> bool:
        return not compare(candidate, other).passes


def measured(measurer: Measurer, said: list[Recording], what: str) -> list[Measures]:
    progress = tqdm(said, desc=what, unit="sentence", leave=False)
    return [measurer.measure(each.samples, each.rate, each.text) for each in progress]


def damaged(damage: Damage, strength: float, said: list[Recording], draw: np.random.Generator) -> list[Recording]:
    return [damage.apply(each, strength, draw) for each in said]


def table(shares: Shares) -> str:
    lines = ["| damage | strength | same | others |", "|---|---|---|---|"]
    lines += [f"| {name} | {how} | {v['same']:.0%} | {v['others']:.0%} |" for (name, how), v in shares.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SAMPLES, help="recordings of a speaker, as LJSpeech's (samples/)")
    parser.add_argument("--other", type=Path, help="of another speaker; without it, pitch and formants are shifted")
    parser.add_argument("--workspace", type=Path, help="of a run: its models/phase2 speaks DATA's sentences")
    parser.add_argument("--pool", type=int, default=40, help="sentences that trials draw from (40)")
    parser.add_argument("--sentences", type=int, default=20, help="of a trial (20); two trials' must fit into the pool")
    parser.add_argument("--trials", type=int, default=100, help="for each damage and strength (100)")
    arguments = parser.parse_args()
    assert arguments.pool >= 2 * arguments.sentences, "the pool must hold twice as many sentences as a trial"
    draw = np.random.default_rng(0)
    given = recordings(arguments.data, arguments.pool + VOICE)
    order = draw.permutation(len(given))
    pool, voice = ([given[at] for at in part] for part in (order[: arguments.pool], order[arguments.pool :]))
    others = recordings(arguments.other, arguments.pool) if arguments.other else []
    said = renditions(arguments.workspace, pool, draw)
    started = time.perf_counter()
    measurer = Measurer(voice, "en")
    measurer.measure(pool[0].samples, pool[0].rate, pool[0].text)
    loading = time.perf_counter() - started
    equals = [measured(measurer, each, f"equal {number + 1} of {len(said)}") for number, each in enumerate(said)]
    seconds = (time.perf_counter() - started - loading) / (len(said) * arguments.pool) * 20
    trials = Trials(equals, arguments, draw)
    shares: Shares = {}
    for damage in damages(said[0], others):
        for strength in damage.strengths:
            row = (damage.name, f"{strength:g} {damage.unit}")
            candidate = measured(measurer, damaged(damage, strength, said[0], draw), " ".join(row))
            shares[row] = trials.refused(candidate)
    shares[EQUAL] = trials.refused(None)
    print(table(shares))
    of_damage = [v for row, v in shares.items() if row != EQUAL]
    summary = {
        "damaged_refused": {way: float(np.mean([v[way] for v in of_damage])) for way in ("same", "others")},
        "strengths_at_95": {way: sum(v[way] >= 0.95 for v in of_damage) for way in ("same", "others")},
        "strengths": len(of_damage),
        "equal_refused": shares[EQUAL],
        "seconds_for_20_sentences": round(seconds, 1),
        "seconds_to_load": round(loading, 1),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
