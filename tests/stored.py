"""What a checkpoint store holds."""

from xtts_finetune.checkpoints.store import CheckpointStore


def steps(store: CheckpointStore) -> list[int]:
    return [state.step for state in store.states()]


def bests(store: CheckpointStore) -> list[int]:
    return [best.step for best in store.bests()]
