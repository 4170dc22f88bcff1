"""The proof by sample: prepared again, and trained again in random stretches, it comes out as it was recorded."""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from xtts_finetune.core.bars import Bar
from xtts_finetune.core.disk import files_below, held_bytes
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import scratch_folder, sha256_file
from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.budget import Term
from xtts_finetune.diskspace.preflight import preflight_fetch
from xtts_finetune.diskspace.sizes import measure
from xtts_finetune.promotion.lineage import TITLE, phase_of
from xtts_finetune.replay.recorded import Recorded, recorded
from xtts_finetune.replay.replaying import Replayed, nearest, one_at_a_time, replayed
from xtts_finetune.replay.stretches import Stretch, chosen, joined, stretches
from xtts_finetune.stages.prepare import prepare
from xtts_finetune.tracking.pace import in_words, pace_of
from xtts_finetune.tracking.registry import Version
from xtts_finetune.training.phases import Job

_TITLE = "the data does not give what was trained on"


def proof_lines(workspace: Workspace, params: Params, version: Version, count: int) -> Iterator[str]:
    """Hold what lies here of a version's run, in models/ too, against what comes out when it is done again.

    The stretch that ends in the version's weights is always among those that are trained again: by no other are they
    tied to the training.

    Raises:
        UserError: something is not the same, or not enough was recorded to tell.
    """
    with one_at_a_time(workspace):
        phases = PHASES[: PHASES.index(phase_of(version)) + 1]
        found = [recorded(Job(workspace, params, phase)) for phase in phases]
        _refuse_without_record(found)
        there = [stretches(each, params.checkpoints.save_every_steps) for each in found]
        last = _last_of(found[-1], there[-1])
        picked = {last, *chosen([each for mine in there for each in mine if each != last], count - 1)}
        ways = [joined(picked & set(mine), _starts(each)) for each, mine in zip(found, there, strict=True)]
        yield _plan(found, ways)
        _refuse_without_room(workspace, params, found)
        yield _prepared_again(workspace, params)
        for each, own in zip(found, ways, strict=True):
            for way in own:
                yield _shown(each, _again(each, way))
        steps = sum(way.last - way.first for own in ways for way in own)
        total = sum(each.last_step - each.start_step for each in found)
        yield f"{len(picked)} of {sum(map(len, there))} stretches, {steps} of {total} steps: all as recorded"
        yield f"among them step {version.tags.get('step')}, whose weights are those of version {version.version}"


def _refuse_without_record(found: Sequence[Recorded]) -> None:
    """Raises UserError: of a phase not every step is recorded, or its exported best is not this run's.

    What `clean --best-only` let go cannot be proven any more.
    """
    problems = []
    for each in found:
        place, again = str(each.job.workspace.checkpoints(each.job.name)), "dvc checkout, where its commit has them"
        if not each.are_exact(each.start_step, each.last_step):
            what = "the figures of its steps are not here: clean --best-only lets them go with the states"
            problems.append(
                Problem(place, what, f"bring the states back: {again}, or clean --archive REMOTE --restore")
            )
        if each.best is None:
            model = str(each.job.workspace.model(each.job.name))
            problems.append(Problem(model, "is not the best of the run in checkpoints/", f"bring it back: {again}"))
    if problems:
        raise UserError(TITLE, problems)


def _last_of(found: Recorded, there: Sequence[Stretch]) -> Stretch:
    """The stretch in which a phase's best is: of one that never improved, its first."""
    assert found.best
    step = found.best[0]
    return next((each for each in there if each.first < step <= each.last), there[0])


def _starts(found: Recorded) -> list[int]:
    """The steps that can be trained on from, as far as their states' names tell."""
    return [found.start_step, *(state.step for state in found.states)]


def _plan(found: Iterable[Recorded], ways: Iterable[Iterable[Stretch]]) -> str:
    """What is about to be done, and how long that takes."""
    parts, seconds = list[str](), 0.0
    for each, own in zip(found, ways, strict=True):
        parts += [f"{each.job.name} {way}" for way in own]
        pace = pace_of(each.job.workspace, each.job.name)
        seconds = seconds + sum(way.last - way.first for way in own) * pace if pace else math.nan
    how_long = "" if math.isnan(seconds) else f", about {in_words(seconds)}, and as long as `prepare` takes"
    return f"to be trained again, with the steps that lead there: {', '.join(parts)}{how_long}"


def _refuse_without_room(workspace: Workspace, params: Params, found: Iterable[Recorded]) -> None:
    """Raises UserError: two states and a best have no room, nor the clips once more."""
    sizes = [size for each in found if (size := measure(workspace, each.job.name, params))]
    place, state = workspace.rebuilding, max(size.state for size in sizes)
    prepared = held_bytes(files_below(workspace.prepared))
    terms = [
        Term(place, "states", 2, state),
        Term(place, "best weights", 1, max(size.weights for size in sizes)),
        Term(place, "the clips, prepared again", 1, prepared),
    ]
    preflight_fetch(workspace, params, terms, "the proof")


@dataclass(frozen=True)
class _Elsewhere(Workspace):
    """The same workspace, but for where `prepare` writes."""

    place: Path

    @property
    def prepared(self) -> Path:
        return self.place / "prepared"

    @property
    def reports(self) -> Path:
        return self.place / "reports"


def _prepared_again(workspace: Workspace, params: Params) -> str:
    """Make prepared/ once more of data/ and the base, and compare what is trained on and from.

    Raises:
        UserError: it is not the same.
    """
    with scratch_folder(workspace.rebuilding / "prepared") as scratch:
        again = _Elsewhere(workspace.root, scratch)
        with redirect_stdout(io.StringIO()):  # it names a report that goes with the folder
            prepare(again, params)
        before, now = _digests(workspace), _digests(again)
    differing = sorted(name for name in before | now if before.get(name) != now.get(name))
    if differing:
        what = f"made again, {len(differing)} of {len(before)} files differ: {', '.join(differing[:3])}"
        remedy = "bring back the recordings and the base of then (git checkout, dvc checkout), or: dvc repro"
        raise UserError(_TITLE, [Problem(str(workspace.prepared), what, remedy)])
    return f"prepared/: made again of data/, all {len(before)} files of clips and base are the same"


def _digests(workspace: Workspace) -> dict[str, str]:
    """Of every file, by its bytes: FEATURES says what they were, not what they are."""
    files = [file for file in sorted(workspace.prepared.rglob("*")) if file.is_file()]
    bar = Bar(files, desc=f"reading {workspace.prepared.name}", unit="file", leave=False)
    return {file.relative_to(workspace.prepared).as_posix(): sha256_file(file) for file in bar}


def _again(found: Recorded, way: Stretch) -> Replayed:
    start = nearest(found, way.first)
    first = start.step if start else found.start_step
    kept = [step for step in found.digests if first < step <= way.last or (start is None and step == first)]
    with replayed(found, start, way.last, kept) as done:
        return done


def _shown(found: Recorded, done: Replayed) -> str:
    kept = {step: [name for at, name in done.proven if at == step] for step, _ in done.proven}
    files = "".join(f"; of step {step} {' and '.join(names)} by SHA-256" for step, names in kept.items())
    return f"{found.job.name}, steps {Stretch(done.first, done.last)}: every figure as recorded, to the last bit{files}"
