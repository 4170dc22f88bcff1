"""How often `status` is right about curves whose truth is known: `python benchmarks/forecast.py`, minutes, no torch.

Curves are drawn at random: power laws and exponentials, evaluated with noise, of which the first part is shown. Asked
is when a target is reached, and whether it ever is; then whether a made overfit is found, and a healthy curve accused.

And of real runs of `mini` (benchmarks/curves/): after each evaluation, what is said then of the best that any later one
comes to, and of the step at which the Mel CE of any later one is reached for the first time.
"""

import argparse
import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from xtts_finetune.trend.evaluations import LEAST, Evaluation
from xtts_finetune.trend.forecast import Forecast
from xtts_finetune.trend.turning import Turn

SPAN = 1_000  # steps that are shown
NOISE = 0.003, 0.012  # between which an evaluation's lies: docs/report.md says where from
LASTS = 0.05, 0.2  # of what is shown, for so long do deviations last that are not independent
FARTHEST = 4  # times what is shown, up to which it is asked
CURVES = Path(__file__).parent / "curves"
RISES = 3, 8  # between which a made overfit rises with each evaluation, in noises
WITHIN = 3  # evaluations, it is to be found
Random = np.random.Generator
Curve = Callable[[float], float]  # steps → Mel CE without noise


@dataclass
class Tally:
    """Of one kind of curve and target."""

    curves: int = 0
    held: int = 0  # the range holds the truth
    open_ends: int = 0  # the range has no end
    never: int = 0  # it was said that it is never reached
    widths: list[float] = field(default_factory=list)  # the range's end by its beginning, as steps from the start
    bests: int = 0  # the range held the best evaluation up to the truth's step

    def row(self, kind: str, target: str, is_reached: bool) -> str:
        shares = [self.held / self.curves, self.open_ends / self.curves, self.bests / self.curves]
        held, is_open, bests = (f"{share:.0%}" if is_reached else "" for share in shares)
        width = f"{np.median(self.widths):.2f}" if is_reached else ""
        cells = kind, target, f"{self.curves}", held, width, is_open, f"{self.never / self.curves:.0%}", bests
        return f"| {' | '.join(cells)} |"


def power_law(random: Random) -> tuple[float, Curve]:
    """Where it levels off, and the curve."""
    limit, drop = random.uniform(1.8, 3.2), random.uniform(0.4, 3)
    exponent, time = random.uniform(0.3, 1.5), SPAN * math.exp(random.uniform(math.log(0.03), math.log(0.6)))
    return limit, lambda step: limit + drop * (1 + step / time) ** -exponent


def exponential(random: Random) -> tuple[float, Curve]:
    limit, drop = random.uniform(1.8, 3.2), random.uniform(0.4, 3)
    time = SPAN * math.exp(random.uniform(math.log(0.15), math.log(1.2)))
    return limit, lambda step: limit + drop * math.exp(-step / time)


KINDS = {"power law": power_law, "exponential": exponential}


def some_noise(random: Random) -> float:
    low, high = NOISE
    return math.exp(random.uniform(math.log(low), math.log(high)))


def evaluated(random: Random, curve: Curve, noise: float, is_lasting: bool) -> tuple[list[int], list[float]]:
    """Between 6 and 24 evaluations over what is shown."""
    steps: list[int] = np.linspace(0, SPAN, int(random.integers(6, 25))).astype(int).tolist()
    off = lasting(random, steps, noise) if is_lasting else [random.normal(0, noise) for _ in steps]
    return steps, [curve(step) + each for step, each in zip(steps, off, strict=True)]


def lasting(random: Random, steps: list[int], noise: float) -> list[float]:
    """Deviations that wear off, as real ones do, of the same size."""
    lasts, off = SPAN * random.uniform(*LASTS), [random.normal(0, noise)]
    for before, step in pairwise(steps):
        left = math.exp((before - step) / lasts)
        off.append(left * off[-1] + math.sqrt(1 - left**2) * random.normal(0, noise))
    return off


def beside(random: Random, steps: list[int], evals: list[float], noise: float) -> list[float]:
    """Mel CE of train clips: below, by a gap that is as wide throughout, or has widened and widens ever less."""
    wide, time = random.uniform(0.02, 0.5), SPAN * math.exp(random.uniform(math.log(0.1), math.log(2)))
    is_constant = random.random() < 0.5
    gaps = [wide if is_constant else wide * (1 - math.exp(-step / time)) for step in steps]
    return [figure - gap + random.normal(0, noise) for figure, gap in zip(evals, gaps, strict=True)]


def forecasts(
    kind: str, seeds: int, is_lasting: bool = False, with_trains: bool = False
) -> Iterator[tuple[str, Tally]]:
    """A target that is reached after up to four times what is shown, and one below where the curve levels off."""
    reached, never = Tally(), Tally()
    for seed in tqdm(range(seeds), desc=kind, leave=False):
        random = np.random.default_rng([seed, len(kind)])
        limit, curve = KINDS[kind](random)
        noise = some_noise(random)
        steps, figures = evaluated(random, curve, noise, is_lasting)
        trains = beside(random, steps, [curve(step) for step in steps], noise) if with_trains else None
        found = Forecast.of(steps, figures, trains)
        assert found, "six evaluations that fall"
        truth = SPAN * math.exp(random.uniform(math.log(1.1), math.log(FARTHEST)))
        target = curve(truth)
        if curve(SPAN) - target > 2 * noise:  # else it is as good as reached
            low, high = found.reaches(target)
            reached.curves += 1
            reached.held += low <= truth <= high
            reached.open_ends += math.isinf(high)
            reached.never += found.never(target)
            low_best, high_best = found.best_by(round(truth))
            to_come = np.arange(SPAN + found.every, truth + 1, found.every)
            best = min(figures + [curve(step) + random.normal(0, noise) for step in to_come])
            reached.bests += low_best <= best <= high_best
            reached.widths.append(min(high, 100 * SPAN) / max(low, SPAN))
        never.curves += 1
        never.never += found.never(limit - random.uniform(0.03, 0.4))
    yield "reached later", reached
    yield "never reached", never


@dataclass
class Looks:
    """At a real run, after each of its evaluations by which a forecast is made.

    Attributes:
        bests: of evaluations to come: best so far, and whether the range that was told held it.
    """

    bests: list[bool] = field(default_factory=list)
    steps: list[bool] = field(default_factory=list)  # likewise, at which a Mel CE was there
    never: list[bool] = field(default_factory=list)  # it was said that it never would be
    widths: list[float] = field(default_factory=list)  # of what was told of the best at the end

    def row(self, run: str) -> str:
        cells = [f"{np.mean(each):.0%}" if each else "" for each in (self.bests, self.steps, self.never)]
        return f"| {run} | {len(self.widths)} | {' | '.join(cells)} | {np.median(self.widths):.3f} |"


def looks_at(curve: Path, with_trains: bool = True) -> Looks:
    with curve.open(encoding="utf-8", newline="") as stream:
        rows = [[float(cell) for cell in row.values()] for row in csv.DictReader(stream)]
    seen = [Evaluation(int(step), figure, train) for step, figure, train in rows]
    steps, figures, trains = [each.step for each in seen], [each.eval for each in seen], [each.train for each in seen]
    looks = Looks()
    for count in range(LEAST, len(seen)):
        found = Forecast.of(steps[:count], figures[:count], trains[:count] if with_trains else None)
        if found is None or Turn.of(seen[:count]):
            continue
        low, high = found.best_by(steps[-1])
        looks.widths.append(high - low)
        for later in range(count, len(seen)):
            if steps[later] - steps[0] > FARTHEST * (steps[count - 1] - steps[0]):
                break
            low, high = found.best_by(steps[later])
            looks.bests.append(low <= min(figures[: later + 1]) <= high)
            if figures[later] < min(figures[:later]):  # a Mel CE that was there for the first time
                low, high = found.reaches(figures[later])
                looks.steps.append(low <= steps[later] and steps[later - 1] <= high)  # it was there between both
                looks.never.append(found.never(figures[later]))
    return looks


def turned(seeds: int) -> tuple[float, float, float]:
    """Healthy curves, looked at after every evaluation, and such as rise from some evaluation on while train falls.

    Returns:
        shares: of the healthy that were accused, and of the others that were found in time, and not at all.
    """
    accused = found = missed = 0
    for seed in tqdm(range(seeds), desc="turns", leave=False):
        random = np.random.default_rng([seed, 7])
        noise = some_noise(random)
        _, curve = KINDS[list(KINDS)[seed % len(KINDS)]](random)
        count = round(math.exp(random.uniform(math.log(8), math.log(120))))
        smooth = [curve(SPAN * place / count) for place in range(count)]
        turn, rise = int(random.integers(4, count - 3)), noise * random.uniform(*RISES)
        healthy = [each + random.normal(0, noise) for each in smooth]
        overfit = [smooth[min(place, turn)] + max(0, place - turn) * rise for place in range(count)]
        overfit = [each + random.normal(0, noise) for each in overfit]
        accused += any(is_accused(smooth, healthy, until) for until in range(count + 1))
        found += is_accused(smooth, overfit, turn + 1 + WITHIN)
        missed += not any(is_accused(smooth, overfit, until) for until in range(count + 1))
    return accused / seeds, found / seeds, missed / seeds


def is_accused(train: list[float], figures: list[float], until: int) -> bool:
    seen = [Evaluation(step, *pair) for step, pair in enumerate(zip(figures[:until], train[:until], strict=True))]
    turn = Turn.of(seen)
    return turn is not None and turn.is_overfitting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=400, help="curves of each kind")
    seeds = parser.parse_args().seeds
    asked = "range holds the truth | its end by its beginning, in steps (median) | has no end | called never reached"
    print(f"| curve | target | curves | {asked} | range of the best holds it |")
    print("|---|---|---|---|---|---|---|---|")
    ways = {"": (False, False), ", deviations last": (True, False), ", with train clips": (False, True)}
    for named, way in ways.items():
        for kind in KINDS:
            for target, tally in forecasts(kind, seeds, *way):
                print(tally.row(f"{kind}{named}", target, target == "reached later"))
    print("\n| run of `mini` | looks | best | steps | called never reached | width (median) | best, by eval alone |")
    print("|---|---|---|---|---|---|---|")
    for curve in tqdm(sorted(CURVES.glob("*.csv")), desc="runs", leave=False):
        looks, alone = looks_at(curve), looks_at(curve, with_trains=False)
        if looks.widths:
            print(f"{looks.row(curve.stem)} {np.mean(alone.bests):.0%} |")
    accused, found, missed = turned(seeds)
    print("\n| curve | curves | called overfitting |\n|---|---|---|")
    print(f"| healthy, at any evaluation | {seeds} | {accused:.1%} |")
    print(f"| rises, {WITHIN} evaluations later | {seeds} | {found:.1%} |")
    print(f"| rises, at any evaluation | {seeds} | {1 - missed:.1%} |")


if __name__ == "__main__":
    main()
