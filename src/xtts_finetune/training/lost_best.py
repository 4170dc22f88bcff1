"""Whether the best weights so far are safe, asked before a run goes on."""

from xtts_finetune.checkpoints.checkpoint import Checkpoint
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.training.position import Position


def refuse_lost_best(store: CheckpointStore, state: Checkpoint | None, start_step: int) -> None:
    """Ask the user whether to give up hours of training, where going on from `state` would lose the best weights.

    Raises:
        UserError: they are lost; or they are all that is left, and starting over at `start_step` would replace them.
    """
    best = store.best()
    if state is not None and not _is_safe(best, state):
        what = "the best weights so far are missing or damaged, and no state holds them"
        remedy = "bring them back, or start the phase over"
    elif state is None and best is not None and best.step > start_step and not best.damage():
        what = f"no state can be resumed from, but the best weights, of step {best.step}, are whole"
        remedy = f"copy {best.weights} if you want to keep them, then start the phase over"
    else:
        return
    problem = Problem(str(store.folder), what, f"{remedy}: rm -r {store.folder} && dvc repro")
    raise UserError("this run cannot be resumed", [problem])


def _is_safe(best: Checkpoint | None, state: Checkpoint) -> bool:
    """Whether the best weights up to `state` are in it, in their own folder, or sure to be replaced.

    A later best is that of a state which was damaged or had no room: the steps up to it will be replayed.
    """
    best_step = Position.from_json(state.state["position"]).best_step
    if best_step in (state.step, -1):  # -1: no eval Mel CE was finite so far
        return True
    return best is not None and (best.step > state.step or (best.step == best_step and best.damage() is None))
