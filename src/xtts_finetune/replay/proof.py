"""The proof by sample: prepared again, and trained again in random stretches, it comes out as it was recorded."""

import io
import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from xtts_finetune.core.disk import files_below, held_bytes
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json, scratch_folder, sha256_file
from xtts_finetune.core.layout import BASE_INFO, BUNDLE_BASE, FEATURES, PHASES, WEIGHTS, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.budget import Term
from xtts_finetune.diskspace.preflight import preflight_fetch
from xtts_finetune.diskspace.sizes import measure
from xtts_finetune.promotion.lineage import TITLE, phase_of, trained_weights
from xtts_finetune.replay.recorded import Recorded, recorded
from xtts_finetune.replay.replaying import Replayed, nearest, one_at_a_time, replayed
from xtts_finetune.replay.stretches import Stretch, chosen, joined, stretches
from xtts_finetune.stages.prepare import prepare
from xtts_finetune.tracking.pace import in_words, pace_of
from xtts_finetune.tracking.registry import Version
from xtts_finetune.training.phases import Job

_TITLE = "the data does not give what was trained on"


def proof_lines(workspace: Workspace, params: Params, version: Version, count: int) -> Iterator[str]:
    """Hold what lies here of a version's run against what comes out when it is done again.

    Raises:
        UserError: something does not.
    """
    with one_at_a_time(workspace):
        phases = PHASES[: PHASES.index(phase_of(version)) + 1]
        found = [recorded(Job(workspace, params, phase)) for phase in phases]
        there = [stretches(each, params.checkpoints.save_every_steps) for each in found]
        picked = chosen([stretch for mine in there for stretch in mine], count)
        ways = [joined(set(mine) & set(picked), starts(each)) for each, mine in zip(found, there, strict=True)]
        yield _plan(found, ways)
        _refuse_without_room(workspace, params, found)
        yield _prepared_again(workspace, params)
        proven = set[int]()
        for each, own in zip(found, ways, strict=True):
            for way in own:
                done = _again(each, way)
                proven |= {step for step, _ in done.proven}
                yield _shown(each, done)
        steps = sum(way.last - way.first for own in ways for way in own)
        share = f"{len(picked)} of {sum(map(len, there))} stretches, {steps} of {found[-1].last_step} steps"
        yield f"{share}: all as recorded"
        yield _its_weights(workspace, version, proven)


def starts(found: Recorded) -> list[int]:
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
    place, state = workspace.rebuilt("phase1"), max(size.state for size in sizes)
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
    with scratch_folder(workspace.rebuilt("phase1").with_name("prepared")) as scratch:
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
    info = read_json(workspace.prepared / BUNDLE_BASE / BASE_INFO)
    clips: dict[str, str] = read_json(workspace.prepared / FEATURES)
    return {**clips, **info.get("files", {}), "the base's weights": info["gpt"]["sha256"]}


def _again(found: Recorded, way: Stretch) -> Replayed:
    start = nearest(found, way.first)
    first = start.step if start else found.start_step
    kept = [step for step in found.digests if first < step <= way.last]
    with replayed(found, start, way.last, kept) as done:
        return done


def _shown(found: Recorded, done: Replayed) -> str:
    is_exact = found.are_exact(done.first, done.last)
    how = "every figure as recorded, to the last bit" if is_exact else "evaluations as in reports/, to six digits"
    kept = {step: [name for at, name in done.proven if at == step] for step, _ in done.proven}
    files = "".join(f"; of step {step} {' and '.join(names)} by SHA-256" for step, names in kept.items())
    return f"{found.job.name}, steps {Stretch(done.first, done.last)}: {how}{files}"


def _its_weights(workspace: Workspace, version: Version, proven: Collection[int]) -> str:
    """How sure it is that they are the version's.

    Raises:
        UserError: the exported best is not what its card says.
    """
    file = workspace.model(phase_of(version)) / WEIGHTS
    if sha256_file(file) != trained_weights(version):
        problem = Problem(str(file), "are not the weights that its card names", "bring them back: dvc checkout --force")
        raise UserError(TITLE, [problem])
    step = version.tags.get("step", "")
    if step in map(str, proven):
        return f"the weights of version {version.version} are those of step {step}, which was trained again"
    return (
        f"the weights of version {version.version}, of step {step}, lie here by their SHA-256; this step was not drawn"
    )
