"""When a phase is at its target, and where its curve levels off: as a range, by a curve fitted to its evaluations.

The curve falls as `limit + drop * g(t)`, where g is an exponential or a power law, the two shapes that learning curves
have (Hestness et al., 2017, arXiv:1712.00409; Domhan et al., 2015, "Speeding up automatic hyperparameter optimization
of deep neural networks by extrapolation of learning curves", IJCAI):

    g(t) = exp(-t / k)    or    (1 + c t / k) ** (-1 / c)

A straight line through the last two evaluations takes neither into account. Nothing is known for certain of k and c, or
of the noise: all that fit are weighed (Bayes), limit and drop in closed form, k and c on a grid that closes in on what
fits. How often the ranges hold the truth: `benchmarks/forecast.py`, docs/report.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from xtts_finetune.trend.evaluations import LEAST, NOISE

LOW, HIGH = 0.1, 0.9  # quantiles: four in five are between them
CERTAIN = 0.9  # of the curves that fit: where so many never get there, that is said

Floats = NDArray[np.float64]

_MOST = 120  # points that are fitted; of more, neighbours are put together
_DRAWS = 4_000
# What is taken to be so before there is any evaluation: half of all curves are exponentials, and a power law's c is 2
# on average; k is anything from a hundredth of what was trained to fifty times that; NOISE is as if four were seen.
_EXPONENTIAL, _MEAN_C = 0.5, 2.0
_NOISE_SEEN = 4
_LOG_K, _C = (math.log(0.01), math.log(50.0)), (0.0, 8.0)
_GRID = 60, 25  # of log k and c
_CLOSER = 3  # times the grid closes in
_NEGLIGIBLE = 10.0  # less in log likelihood


@dataclass(frozen=True)
class Forecast:
    """Curves that fit what was evaluated, each as likely as the other.

    Attributes:
        start: step of the first evaluation.
        span: steps between the first and the last.
        limit: Mel CE that each levels off at, shape (curves,).
        drop: what each falls from the start on, (curves,).
        log_k: of the time in spans by which it falls, (curves,).
        c: 0: exponentially; else one by the exponent of its power law, (curves,).
        noise: standard deviation of an evaluation around it, (curves,).
    """

    start: int
    span: int
    limit: Floats
    drop: Floats
    log_k: Floats
    c: Floats
    noise: Floats

    @classmethod
    def of(cls, steps: Sequence[int], figures: Sequence[float]) -> Self | None:
        """By the evaluations of a phase so far; None: they are too few, or do not fall.

        Args:
            steps: at which they were, rising.
            figures: Mel CE; one that is not finite is left out.
        """
        seen = [(step, figure) for step, figure in zip(steps, figures, strict=True) if math.isfinite(figure)]
        if len(seen) < LEAST or seen[0][0] >= seen[-1][0]:
            return None
        start, last = seen[0][0], seen[-1][0]
        parts = np.array_split(np.array(seen, np.float64), min(_MOST, len(seen)))
        points = np.array([part.mean(axis=0) for part in parts])
        fitted = _fitted((points[:, 0] - start) / (last - start), points[:, 1])
        if fitted is None:
            return None
        return cls(start, last - start, *fitted)

    def figures_at(self, step: int) -> tuple[float, float]:
        """Between which Mel CE is, without an evaluation's noise, at a step."""
        falls = _falls(np.array([(step - self.start) / self.span]), self.log_k, self.c)[:, 0]
        low, high = np.quantile(self.limit + self.drop * falls, (LOW, HIGH))
        return float(low), float(high)

    @property
    def levels_off(self) -> tuple[float, float]:
        """At which Mel CE: the median, and half of what four in five are within."""
        low, middle, high = np.quantile(self.limit, (LOW, 0.5, HIGH))
        return float(middle), float(high - low) / 2

    def never(self, target: float) -> bool:
        """Whether it is sure, at four in five, that this Mel CE is never reached."""
        return float((self.limit >= target).mean()) >= CERTAIN

    def reaches(self, target: float) -> tuple[float, float]:
        """Between which steps the Mel CE is there; inf: it may never be."""
        left = (target - self.limit) / self.drop  # of the fall
        slow = np.maximum(self.c, _TINY)
        with np.errstate(invalid="ignore", divide="ignore"):
            log = np.log(left)
            times = np.exp(self.log_k) * np.where(self.c < _TINY, -log, np.expm1(-slow * log) / slow)
        times = np.where(left <= 0, np.inf, np.where(left >= 1, 0, times))
        low, high = np.quantile(times, (LOW, HIGH), method="inverted_cdf")
        return float(self.start + low * self.span), float(self.start + high * self.span)


_TINY = 1e-9


def _falls(times: Floats, log_k: Floats, c: Floats) -> Floats:
    """What is left of the fall, 1 at time 0: shape (curves, times)."""
    passed = times[None] / np.exp(log_k)[:, None]
    slow = np.maximum(c, _TINY)[:, None]
    fallen: Floats = np.where(c[:, None] < _TINY, np.exp(-passed), np.exp(-np.log1p(slow * passed) / slow))
    return fallen


@dataclass(frozen=True)
class _Lines:
    """For each shape on a grid the straight line of `figures` over the fall, by least squares.

    Attributes: all of shape (shapes,).
        end: where the line is at the last evaluation.
        drop: how much it falls between the first and the last.
        rest: of that fall, what is to come in all the time there is.
        whole: of the fall from 1 to 0, what is between the first and the last.
        scatter: sum of squares around it, with what was known of the noise before.
        spread: of end and drop, their covariance for a noise of 1, (shapes, 3): both variances, between them.
        weight: log likelihood, with what is taken to be so before.
    """

    log_k: Floats
    c: Floats
    end: Floats
    drop: Floats
    rest: Floats
    whole: Floats
    scatter: Floats
    spread: Floats
    weight: Floats

    @classmethod
    def on(cls, times: Floats, figures: Floats, log_k: Floats, c: Floats) -> Self:
        falls = _falls(times, log_k, c)
        whole = falls[:, 0] - falls[:, -1]
        x = (falls - falls[:, -1:]) / whole[:, None]
        count, sum_x, sum_xx = len(figures), x.sum(axis=1), (x * x).sum(axis=1)
        sum_y, sum_xy = figures.sum(), x @ figures
        determinant = count * sum_xx - sum_x**2
        end = (sum_xx * sum_y - sum_x * sum_xy) / determinant
        drop = (count * sum_xy - sum_x * sum_y) / determinant
        off = ((figures - end[:, None] - drop[:, None] * x) ** 2).sum(axis=1)
        scatter, rest = off + _NOISE_SEEN * NOISE**2, falls[:, -1] / whole
        weight = -0.5 * (np.log(determinant) + (_NOISE_SEEN + count - 2) * np.log(scatter)) + _before(c)
        weight = np.where((drop > 0) & (end > drop * rest), weight, -np.inf)  # it falls, and not below 0
        spread = np.stack([sum_xx, np.full_like(sum_x, count), -sum_x], axis=1) / determinant[:, None]
        return cls(log_k, c, end, drop, rest, whole, scatter, spread, weight)


def _before(c: Floats) -> Floats:
    """Log probability of shapes on a grid before there is any evaluation."""
    values = np.unique(c)
    width = (1 - _EXPONENTIAL) * (values[1] - values[0]) / _MEAN_C
    power = math.log(width) - c / _MEAN_C
    return np.where(c < _TINY, math.log(_EXPONENTIAL), power)


def _fitted(times: Floats, figures: Floats) -> tuple[Floats, ...] | None:
    """Limit, drop, log k, c and noise of curves, drawn by how well they fit; None: none does."""
    log_k, c = _LOG_K, _C
    for _ in range(_CLOSER):
        grid = np.meshgrid(np.linspace(*log_k, _GRID[0]), np.linspace(*c, _GRID[1]))
        lines = _Lines.on(times, figures, *(each.ravel() for each in grid))
        if not np.isfinite(lines.weight).any():
            return None
        near = lines.weight > lines.weight.max() - _NEGLIGIBLE
        log_k, c = _around(lines.log_k[near], log_k, _GRID[0]), _around(lines.c[near], c, _GRID[1])
    return _drawn(lines, len(figures))


def _around(values: Floats, bounds: tuple[float, float], count: int) -> tuple[float, float]:
    """Bounds of these values on a grid, and a place of it further."""
    step = (bounds[1] - bounds[0]) / (count - 1)
    return max(bounds[0], float(values.min()) - step), min(bounds[1], float(values.max()) + step)


def _drawn(lines: _Lines, count: int) -> tuple[Floats, ...] | None:
    random = np.random.default_rng(0)  # equal evaluations say equal things
    weights = np.exp(lines.weight - lines.weight.max())
    shape = random.choice(len(weights), _DRAWS, p=weights / weights.sum())
    noise = np.sqrt(lines.scatter[shape] / random.chisquare(_NOISE_SEEN + count - 2, _DRAWS))
    of_end, of_drop, between = lines.spread[shape].T
    first, second = random.normal(size=(2, _DRAWS)) * noise
    slope = between / np.sqrt(of_end)
    end = lines.end[shape] + np.sqrt(of_end) * first
    drop = lines.drop[shape] + slope * first + np.sqrt(of_drop - slope**2) * second
    limit = end - drop * lines.rest[shape]
    falls = (drop > 0) & (limit > 0)
    if not falls.any():
        return None
    whole = drop / lines.whole[shape]
    return tuple(each[falls] for each in (limit, whole, lines.log_k[shape], lines.c[shape], noise))
