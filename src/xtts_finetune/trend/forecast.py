"""When a phase is at its target, and what its curve comes to: as a range, by curves fitted to its evaluations.

The curve falls as `limit + drop * g(t)`, where g is an exponential or a power law, the two shapes that learning curves
have (Hestness et al., 2017, arXiv:1712.00409; Domhan et al., 2015, "Speeding up automatic hyperparameter optimization
of deep neural networks by extrapolation of learning curves", IJCAI):

    g(t) = exp(-t / k)    or    (1 + c t / k) ** (-1 / c)

A straight line through the last two evaluations takes neither into account. Nothing is known for certain of k and c, or
of the noise: all that fit are weighed (Bayes), limit and drop in closed form, k and c on a grid that closes in on what
fits.

Of a few hundred clips much is learned by heart: train clips go on to fit better, and eval clips do not, or worse. Eval
Mel CE alone does not tell of that before it comes. So where train clips are measured alike, what falls that way is
taken to be eval Mel CE less a part of the gap between both, from none of it to all, and the gap to widen as it did
lately.

How often the ranges hold the truth, of made curves and of real ones: `benchmarks/forecast.py`, docs/report.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from xtts_finetune.trend.evaluations import LEAST, NOISE

LOW, HIGH = 0.1, 0.9  # quantiles: four in five are between them
CERTAIN = 0.9  # of the curves that fit: where so many never get there, that is said
FAR = 20.0  # times what was trained so far: nobody trains so long

Floats = NDArray[np.float64]

_MOST = 48  # points that are fitted; of more, neighbours are put together
_DRAWS = 2_000  # curves
# What is taken to be so before there is any evaluation: half of all curves are exponentials, and a power law's c is 2
# on average; k is anything from a hundredth of what was trained to fifty times that; NOISE is as if four were seen.
_EXPONENTIAL, _MEAN_C = 0.5, 2.0
_NOISE_SEEN = 4
_LOG_K, _C = (math.log(0.01), math.log(50.0)), (0.0, 8.0)
_GRID = 40, 17  # of log k and c
_CLOSER = 3  # times the grid closes in
_NEGLIGIBLE = 10.0  # less in log likelihood
# Parts of the gap that are taken off, each as likely as the other; how fast it widens is known within a third.
_PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_WIDENS = 0.3  # standard deviation of the logarithm
# Real curves are neither of both shapes: where train clips are measured, as of every real run, it is told by so much
# less, so that ranges are right of those (docs/report.md). Standard deviation of the logarithm of the fall to come.
_STRAYS = 0.2
_LATELY = 0.4  # of what was trained
_ALONE, _CLEARLY = 10, 6.0  # evaluations that may tell alone; times less they lie off then, in squares
# Of four curves in ten deviations of evaluations last: most of their variance, for some of a span.
_SOME_LAST, _LASTING, _LASTS = 0.4, 0.8, 0.15
_AHEAD = np.concatenate([[0.0], np.geomspace(0.01, FAR, 48)])  # times what was trained so far, from then on
_LAST = 20  # evaluations, by which it is told how far they are apart
_EVALUATIONS = 200  # to come, at the most: the best of more is hardly better
_CLEAR = 2.0  # standard errors, by which a gap widens that is taken to go on widening


@dataclass(frozen=True)
class Forecast:
    """Curves that fit what was evaluated, each as likely as the other.

    Attributes:
        start: step of the first evaluation that the curves are fitted to.
        last: of the last.
        trained: steps between the phase's first evaluation and the last.
        best: the lowest Mel CE so far.
        every: steps between evaluations, lately.
        limit: Mel CE that each levels off at, without its part of the gap: shape (curves,).
        drop: what each falls from the start on, (curves,).
        log_k: of the time by which it falls, in spans, which are the steps between first and last, (curves,).
        c: 0: exponentially; else one by the exponent of its power law, (curves,).
        noise: standard deviation of an evaluation around it, (curves,).
        strays: by what part the fall that is to come is another than by the fit, (curves,).
        gap: the part of the gap that was taken off, at the last evaluation, (curves,).
        widens: by what that part grows in a span, (curves,).
    """

    start: int
    last: int
    trained: int
    best: float
    every: float
    limit: Floats
    drop: Floats
    log_k: Floats
    c: Floats
    noise: Floats
    strays: Floats
    gap: Floats
    widens: Floats

    @classmethod
    def of(cls, steps: Sequence[int], figures: Sequence[float], trains: Sequence[float] | None = None) -> Self | None:
        """By the evaluations of a phase so far; None: they are too few, or do not fall.

        Args:
            steps: at which they were, rising.
            figures: Mel CE; one that is not finite is left out.
            trains: of train clips, measured alike; they count where all are known.
        """
        seen = _finite(steps, figures, [math.nan] * len(steps) if trains is None else trains)
        if len(seen) < LEAST or seen[0, 0] >= seen[-1, 0]:
            return None
        points = _that_goes_on(_merged(seen))
        start, last = points[0, 0], seen[-1, 0]
        times, evals, gaps = (points[:, 0] - start) / (last - start), points[:, 1], points[:, 1] - points[:, 2]
        growth = _growth(times, gaps)
        views = [_fitted(times, evals - part * gaps if part else evals) for part in (_PARTS if growth else _PARTS[:1])]
        if views[0] is None:
            return None
        random = np.random.default_rng(0)  # equal evaluations say equal things
        told = [(part, view) for part, view in zip(_PARTS, views, strict=False) if view is not None]
        curves = [_drawn(random, view, len(points), _DRAWS // len(told)) for _, view in told]
        parts = np.concatenate([np.full(len(each[0]), part) for (part, _), each in zip(told, curves, strict=True)])
        if not len(parts):
            return None
        widens = parts * growth * np.exp(_WIDENS * random.normal(size=len(parts)))
        strays = np.exp((_STRAYS if np.isfinite(gaps).all() else 0.0) * random.normal(size=len(parts)))
        limit, drop, log_k, c, noise = (np.concatenate(each) for each in zip(*curves, strict=True))
        noise = noise * (_off_alone(points, seen) if len(seen) > _MOST else 1.0)
        gap = parts * gaps[-1] if growth else np.zeros(len(parts))
        every = max(1.0, float(np.median(np.diff(seen[-_LAST:, 0]))))
        known = int(start), int(last), int(last - seen[0, 0]), float(seen[:, 1].min()), every
        return cls(*known, limit, drop, log_k, c, noise, strays, gap, widens)

    @property
    def span(self) -> int:
        """Steps between the first evaluation that the curves are fitted to and the last."""
        return self.last - self.start

    def best_by(self, step: int) -> tuple[float, float]:
        """Between which Mel CE the best evaluation is by then, if they come as they did."""
        count = min(_EVALUATIONS, max(1, round((step - self.last) / self.every)))
        ahead = np.linspace(0, (step - self.last) / self.span, count + 1)[1:]
        noise = np.random.default_rng(1).normal(size=(len(self.limit), count)) * self.noise[:, None]
        bests = np.minimum(self.best, (self._curves(ahead) + noise).min(axis=1))
        low, high = np.quantile(bests, (LOW, HIGH))
        return float(low), float(high)

    @property
    def levels_off(self) -> tuple[float, float]:
        """At which Mel CE, before it rises where it does: the median, and half of what four in five are within."""
        low, middle, high = np.quantile(self._lowest, (LOW, 0.5, HIGH))
        return float(middle), float(high - low) / 2

    def never(self, target: float) -> bool:
        """Whether it is sure, at nine in ten, that this Mel CE is never reached."""
        return float((self._lowest > target).mean()) >= CERTAIN

    def reaches(self, target: float) -> tuple[float, float]:
        """Between which steps, from the last evaluation on, the Mel CE is there; inf: it may never be."""
        is_there = self._ahead <= target
        first = is_there.argmax(axis=1)
        before, rows = np.maximum(first - 1, 0), np.arange(len(first))
        high, low = self._ahead[rows, before], self._ahead[rows, first]
        part = np.where(first > 0, (high - target) / np.where(high > low, high - low, 1.0), 0.0)
        ahead = self._times[before] + part * (self._times[first] - self._times[before])
        soonest, latest = np.quantile(np.where(is_there.any(axis=1), ahead, np.inf), (LOW, HIGH), method="inverted_cdf")
        return float(self.last + soonest * self.span), float(self.last + latest * self.span)

    @property
    def _times(self) -> Floats:
        """At which curves are looked at: in spans behind the last evaluation."""
        return _AHEAD * (self.trained / self.span)

    @cached_property
    def _ahead(self) -> Floats:
        return self._curves(self._times)

    @cached_property
    def _lowest(self) -> Floats:
        return np.asarray(self._ahead.min(axis=1))

    def _curves(self, ahead: Floats) -> Floats:
        """Mel CE so many spans behind the last evaluation: shape (curves, times)."""
        now, then = _falls(np.ones(1), self.log_k, self.c), _falls(1 + ahead, self.log_k, self.c)
        falls = self.drop[:, None] * (now + self.strays[:, None] * (then - now))
        curves: Floats = self.limit[:, None] + falls + self.gap[:, None] + self.widens[:, None] * ahead
        return curves


_TINY = 1e-9


def noise_of(steps: Sequence[int], figures: Sequence[float]) -> float:
    """Standard deviation of an evaluation around the curve that fits them best; NOISE where none can be fitted."""
    seen = _finite(steps, figures, [math.nan] * len(steps))
    if len(seen) < LEAST or seen[0, 0] >= seen[-1, 0]:
        return NOISE
    points = _that_goes_on(_merged(seen))
    own = _from(points, seen)
    scatter = _scatter(points, own)
    return NOISE if scatter is None else math.sqrt(scatter / _known(own))


def _finite(steps: Sequence[int], figures: Sequence[float], trains: Sequence[float]) -> Floats:
    """Step, Mel CE and train Mel CE of evaluations: shape (evaluations, 3)."""
    rows = zip(steps, figures, trains, strict=True)
    return np.array([row for row in rows if math.isfinite(row[1])], np.float64).reshape(-1, 3)


def _merged(seen: Floats) -> Floats:
    """Neighbours put together, where they are more than _MOST."""
    return np.array([part.mean(axis=0) for part in np.array_split(seen, min(_MOST, len(seen)))])


def _from(points: Floats, seen: Floats) -> Floats:
    """The evaluations that are in these points."""
    return np.asarray(seen[seen[:, 0] >= points[0, 0]])


def _off_alone(points: Floats, seen: Floats) -> float:
    """How much further one evaluation lies off than a point does, which may be the mean of some."""
    own = _from(points, seen)
    alone, together = _scatter(points, own), _scatter(points, points)
    if len(own) <= len(points) or alone is None or together is None:
        return 1.0
    return math.sqrt(alone / _known(own) / together * _known(points))


def _known(points: Floats) -> int:
    """Degrees of freedom of the noise: evaluations, and those by which it is known before, less end and drop."""
    return _NOISE_SEEN + len(points) - 2


def _growth(times: Floats, gaps: Floats) -> float:
    """By how much the gap widens in a span, lately; 0: it does not clearly, or is not known throughout."""
    if not np.isfinite(gaps).all():
        return 0.0
    lately = times >= min(1 - _LATELY, times[-3])
    x, y = times[lately] - times[lately].mean(), gaps[lately] - gaps[lately].mean()
    if not x.any():
        return 0.0
    slope = float((x * y).sum() / (x * x).sum())
    off = ((y - slope * x) ** 2).sum() + 2 * _NOISE_SEEN * NOISE**2  # of two evaluations each
    error = math.sqrt(off / (_NOISE_SEEN + len(x) - 2) / (x * x).sum())
    return slope if slope > _CLEAR * error else 0.0


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
    def on(cls, times: Floats, figures: Floats, log_k: Floats, c: Floats, root: Floats) -> Self:
        """With deviations that are independent, and with such as last, whose `_root` is given."""
        falls = _falls(times, log_k, c)
        alone = cls._of(falls, figures, log_k, c, None, 1 - _SOME_LAST)
        lasting = cls._of(falls, figures, log_k, c, root, _SOME_LAST)
        return cls(*(np.concatenate([getattr(each, name.name) for each in (alone, lasting)]) for name in fields(cls)))

    @classmethod
    def _of(cls, falls: Floats, figures: Floats, log_k: Floats, c: Floats, root: Floats | None, before: float) -> Self:
        """Args: before: how likely such deviations are, before there is any evaluation."""
        whole, rest = falls[:, 0] - falls[:, -1], falls[:, -1] / (falls[:, 0] - falls[:, -1])
        one, x, y, sizes = np.ones_like(figures), (falls - falls[:, -1:]) / whole[:, None], figures, 0.0
        if root is not None:  # no matrix product: so little is done in a thousandth of the time that its threads take
            one, x, y = root.sum(axis=1), np.einsum("st,ut->su", x, root, optimize=False), (root * figures).sum(axis=1)
            sizes = float(np.log(np.diag(root)).sum())
        ones, sum_x, sum_xx, sum_y, sum_xy = one @ one, x @ one, (x * x).sum(axis=1), y @ one, x @ y
        determinant = ones * sum_xx - sum_x**2
        end = (sum_xx * sum_y - sum_x * sum_xy) / determinant
        drop = (ones * sum_xy - sum_x * sum_y) / determinant
        off = np.maximum(y @ y - end * sum_y - drop * sum_xy, 0)
        scatter, seen = off + _NOISE_SEEN * NOISE**2, _known(figures)
        weight = sizes - 0.5 * (np.log(determinant) + seen * np.log(scatter))
        weight += _before(c) + math.log(before)
        weight = np.where((drop > 0) & (end > drop * rest), weight, -np.inf)  # it falls, and not below 0
        spread = np.stack([sum_xx, np.full_like(sum_x, ones), -sum_x], axis=1) / determinant[:, None]
        return cls(log_k, c, end, drop, rest, whole, scatter, spread, weight)


def _root(times: Floats) -> Floats:
    """By which deviations, most of which last for a while, become independent and of one size."""
    apart = np.abs(times[:, None] - times[None])
    correlation = _LASTING * np.exp(-apart / _LASTS) + (1 - _LASTING) * np.eye(len(times))
    return np.linalg.inv(np.linalg.cholesky(correlation))


def _before(c: Floats) -> Floats:
    """Log probability of shapes on a grid before there is any evaluation."""
    values = np.unique(c)
    width = (1 - _EXPONENTIAL) * (values[1] - values[0]) / _MEAN_C
    power = math.log(width) - c / _MEAN_C
    return np.where(c < _TINY, math.log(_EXPONENTIAL), power)


def _fitted(times: Floats, figures: Floats) -> _Lines | None:
    """Curves, and how well each fits; None: none does."""
    log_k, c, root = _LOG_K, _C, _root(times)
    for _ in range(_CLOSER):
        grid = np.meshgrid(np.linspace(*log_k, _GRID[0]), np.linspace(*c, _GRID[1]))
        lines = _Lines.on(times, figures, grid[0].ravel(), grid[1].ravel(), root)
        if not np.isfinite(lines.weight).any():
            return None
        near = lines.weight > lines.weight.max() - _NEGLIGIBLE
        log_k, c = _around(lines.log_k[near], log_k, _GRID[0]), _around(lines.c[near], c, _GRID[1])
    return lines


def _that_goes_on(points: Floats) -> Floats:
    """Those of the curve that goes on: as long as the second half lies clearly off a curve of all, without the first.

    So it is where a rate was warmed up, or adapters beside frozen weights have found what they do at last. A rest of a
    few evaluations, as behind the end of an epoch, is none.

    Args:
        points: step, eval Mel CE and others, of shape (evaluations, …).
    """
    while len(second := points[len(points) // 2 :]) >= _ALONE and second[0, 0] < second[-1, 0]:
        of_all, alone = _scatter(points, second), _scatter(second, second)
        if of_all is None or alone is None or of_all < _CLEARLY * alone:
            break
        points = second
    return points


def _scatter(points: Floats, some: Floats) -> float | None:
    """Sum of squares of `some` around the curve that fits all of `points` best; None: none does."""
    start, span = points[0, 0], points[-1, 0] - points[0, 0]
    lines = _fitted((points[:, 0] - start) / span, points[:, 1])
    if lines is None:
        return None
    best = [int(lines.weight.argmax())]
    falls = _falls((some[:, 0] - start) / span, lines.log_k[best], lines.c[best])[0]
    drop = lines.drop[best] / lines.whole[best]
    level = lines.end[best] - lines.drop[best] * lines.rest[best]
    return float(((some[:, 1] - level - drop * falls) ** 2).sum()) + _NOISE_SEEN * NOISE**2


def _around(values: Floats, bounds: tuple[float, float], count: int) -> tuple[float, float]:
    """Bounds of these values on a grid, and a place of it further."""
    step = (bounds[1] - bounds[0]) / (count - 1)
    return max(bounds[0], float(values.min()) - step), min(bounds[1], float(values.max()) + step)


def _drawn(random: np.random.Generator, lines: _Lines, points: int, count: int) -> tuple[Floats, ...]:
    """Limit, drop, log k, c and noise of curves, drawn by how well they fit; those that fall."""
    weights = np.exp(lines.weight - lines.weight.max())
    shape = random.choice(len(weights), count, p=weights / weights.sum())
    noise = np.sqrt(lines.scatter[shape] / random.chisquare(_NOISE_SEEN + points - 2, count))
    of_end, of_drop, between = lines.spread[shape].T
    first, second = random.normal(size=(2, count)) * noise
    slope = between / np.sqrt(of_end)
    end = lines.end[shape] + np.sqrt(of_end) * first
    drop = lines.drop[shape] + slope * first + np.sqrt(of_drop - slope**2) * second
    limit = end - drop * lines.rest[shape]
    falls = (drop > 0) & (limit > 0)
    whole = drop / lines.whole[shape]
    return tuple(each[falls] for each in (limit, whole, lines.log_k[shape], lines.c[shape], noise))
