"""What ways to train a phase need of a device: which of them fit it, and which is to be recommended."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from xtts_finetune.core.bars import Bar
from xtts_finetune.core.phase_params import PhaseParams
from xtts_finetune.planning.device import Device
from xtts_finetune.planning.longest import Longest, longest_batch
from xtts_finetune.planning.memory import Memory, TracedTraining
from xtts_finetune.planning.network import Network
from xtts_finetune.planning.ways import OPTIMISERS, Way, clips_a_step, even_sizes, ways
from xtts_finetune.training.loss import EVAL_BATCH

MOST_SIZES = 5  # of batches in a table, from the smallest to the largest, beside the parameters' own


@dataclass(frozen=True, eq=False)
class Traces:
    """The steps of a phase trained in this way and that, each traced once, when it is first asked for.

    Attributes:
        other: the other phase.
    """

    network: Network
    phase: PhaseParams
    other: PhaseParams
    on_gpu: bool
    clips: Longest
    _trainings: dict[Way, TracedTraining] = field(default_factory=dict, init=False)
    _memories: dict[tuple[Way, int], Memory] = field(default_factory=dict, init=False)

    def training(self, way: Way) -> TracedTraining:
        if way not in self._trainings:
            phase = way.applied(self.phase, self.phase.batch_size, self.other)
            evaluated = self.clips.eval.first(EVAL_BATCH).batch()
            self._trainings[way] = TracedTraining(self.network.build, phase, self.on_gpu, evaluated)
        return self._trainings[way]

    def memory(self, way: Way, size: int) -> Memory:
        if (way, size) not in self._memories:
            phase = way.applied(self.phase, size, self.other)
            batch = longest_batch(self.clips.train, size, phase.batch_tokens)
            self._memories[way, size] = self.training(way).memory(batch, phase.accumulate > 1)
        return self._memories[way, size]


@dataclass(frozen=True, eq=False)
class Choices:
    """What ways to train a phase need of a device.

    Attributes:
        processes: that a batch has at least a clip for, each.
    """

    traces: Traces
    device: Device
    processes: int = 1

    @property
    def phase(self) -> PhaseParams:
        return self.traces.phase

    @property
    def own(self) -> tuple[TracedTraining, Memory]:
        """The training that the parameters ask for."""
        way = Way.of(self.phase)
        return self.traces.training(way), self.traces.memory(way, self.phase.batch_size)

    @cached_property
    def sizes(self) -> list[int]:
        """Batches to show: some that share a step's clips evenly, the parameters' and the recommended; the double."""
        even, own = even_sizes(self.phase, self.processes), {self.phase.batch_size}
        if self.recommended:
            own.add(self.recommended[1])
        last = len(even) - 1
        some = {even[round(place * last / (MOST_SIZES - 1))] for place in range(MOST_SIZES)}
        return [*sorted(some | own), 2 * clips_a_step(self.phase)]

    @cached_property
    def table(self) -> dict[Way, dict[int, Memory]]:
        """By way and batch size, as far as it can fit; behind a progress bar."""
        bar = Bar(self._ways, desc="tracing steps", unit="way", leave=False)
        return {way: dict(self._sizes_that_may_fit(way)) for way in bar}

    @property
    def fitting(self) -> Iterator[tuple[Way, int]]:
        """What fits, the quickest first, in batches that share a step's clips evenly: of a way the largest first."""
        for way in Bar(self._ways, desc="looking for what fits", unit="way", leave=False):
            yield from ((way, size) for size in reversed(self._fitting_sizes(way)))

    @cached_property
    def recommended(self) -> tuple[Way, int] | None:
        """The quickest that fits."""
        return next(self.fitting, None)

    @property
    def _ways(self) -> list[Way]:
        return ways(self.phase, self.traces.other, self.device.on_gpu)

    def _fitting_sizes(self, way: Way) -> list[int]:
        """From the smallest on. Of several batches a step larger ones need more: not all have to be traced."""
        even = even_sizes(self.phase, self.processes)
        shared = [size for size in even if size < clips_a_step(self.phase)]
        most = bisect_left(shared, True, key=lambda size: not self._fits(way, size))
        return [*shared[:most], *(size for size in even[len(shared) :] if self._fits(way, size))]

    def _fits(self, way: Way, size: int) -> bool:
        return self.device.fits(self._memory(way, size))

    def _memory(self, way: Way, size: int) -> Memory:
        """Ways that differ in the optimiser alone share a traced step."""
        moments = self.traces.training(replace(Way.of(self.phase), method=way.method, optim=way.optim)).moments
        return self.traces.memory(replace(way, optim=OPTIMISERS[0]), size).with_moments(moments)

    def _sizes_that_may_fit(self, way: Way) -> Iterator[tuple[int, Memory]]:
        """From the smallest on; each of several batches of a step may need more than a larger one alone."""
        is_too_large = False
        for size in self.sizes:
            is_alone = size >= clips_a_step(self.phase)
            if is_too_large and not is_alone:
                continue
            memory = self._memory(way, size)
            yield size, memory
            is_too_large = not self.device.fits(memory)
            if is_too_large and is_alone:
                return
