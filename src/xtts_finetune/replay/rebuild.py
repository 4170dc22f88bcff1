"""`xtts-finetune rebuild`: a state that was pruned or cleaned away is trained again, and is the same."""

import os
from collections.abc import Iterator

from xtts_finetune.checkpoints.identity import identity_of
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import discard, fsync_path
from xtts_finetune.core.layout import PHASES, Workspace, checkpoint_name
from xtts_finetune.core.params import Params, load_params
from xtts_finetune.diskspace.budget import Term
from xtts_finetune.diskspace.preflight import preflight_fetch
from xtts_finetune.diskspace.sizes import measure
from xtts_finetune.dvcio.outs import out_path
from xtts_finetune.replay.recorded import Recorded, recorded
from xtts_finetune.replay.replaying import Replayed, nearest, one_at_a_time, replayed
from xtts_finetune.tracking.pace import in_words, pace_of
from xtts_finetune.training.phases import Job


def rebuild_lines(workspace: Workspace, step: int) -> Iterator[str]:
    """Make the state of a step again; tells where it lies and what proves it.

    Raises:
        UserError: no phase has that step, it has no room, or the training does not repeat.
    """
    params = load_params(workspace.params)
    with one_at_a_time(workspace):
        found = _phase_of(workspace, params, step)
        job, start = found.job, nearest(found, step)
        place = workspace.rebuilt(job.name, found.record.identity.key) / checkpoint_name("step", step)
        if start is not None and start.step == step:
            yield f"{out_path(workspace, start.folder)}: it is there, and every byte as it was written"
            return
        sizes = measure(workspace, job.name, params)
        assert sizes, "prepare has run"
        terms = [Term(place.parent, "the state", 1, sizes.state), Term(place.parent, "best weights", 1, sizes.weights)]
        preflight_fetch(workspace, params, terms, f"the state of step {step}")
        yield _plan(found, start.step if start else found.start_step, step, bool(start))
        with replayed(found, start, step, [step]) as done:
            assert done.state and done.state.step == step
            place.parent.mkdir(parents=True, exist_ok=True)
            discard(place)
            os.rename(done.state.folder, place)
            fsync_path(place.parent)
        yield f"{out_path(workspace, place)}: {_proof(found, done, step)}"
        if params.base != "mini":
            yield f"to export it: xtts-finetune export {job.name}@{step} FOLDER"
        yield "to let it go: xtts-finetune clean"


def _phase_of(workspace: Workspace, params: Params, step: int) -> Recorded:
    """The phase that the step is of: steps count on from phase 1 to phase 2. Where one ends, it is phase 1's.

    Raises:
        UserError: none has come so far, or what lies here is another run's, or damaged.
    """
    first, second = (Job(workspace, params, phase) for phase in PHASES)
    is_beyond = identity_of(workspace, params, "phase2") is not None and step > second.start_step
    found = recorded(second if is_beyond else first)
    if step <= found.last_step:
        return found
    what = f"is not recorded: {found.job.name} came to step {found.last_step}"
    raise UserError("there is nothing to rebuild", [Problem(f"--step {step}", what, "choose an earlier step")])


def _plan(found: Recorded, start: int, step: int, has_state: bool) -> str:
    pace, steps = pace_of(found.job.workspace, found.job.name), step - start
    whence = f"the state of step {start}" if has_state else f"the beginning of {found.job.name}"
    how_long = f", about {in_words(pace * steps)}" if pace and steps else ""
    return f"{found.job.name}: {steps} steps again from {whence}{how_long}"


def _proof(found: Recorded, done: Replayed, step: int) -> str:
    """What says that the state is the one of then."""
    files = [name for at, name in done.proven if at == step]
    if files:
        return f"made again; {' and '.join(files)} have the SHA-256 that they had then"
    behind = found.known(step, done.last) or "eval/mel_ce" in found.figures.get(step, {})
    doubt = "" if behind else ". Nothing was recorded that depends on its last step"
    steps, known = f"steps {done.first + 1} to {done.last}", found.known(done.first, done.last)
    if found.are_exact(done.first, done.last):
        return f"made again; every figure of {steps} is as recorded, to the last bit{doubt}"
    if known:
        return f"made again; of {steps} only {known} are recorded, in reports/ to six digits: these are the same{doubt}"
    return f"made again, by these parameters; nothing is recorded of {steps} that could prove it"
