"""The checkpoint store: whole or not at all, never more than asked for, one trainer at a time."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import flip_in_the_middle
from leftovers import half
from making.done_runs import summary
from stored import steps

from xtts_finetune.checkpoints.checkpoint import Checkpoint, Contents
from xtts_finetune.checkpoints.lock import trainers_kept_out
from xtts_finetune.checkpoints.store import CheckpointStore
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import discard, read_json
from xtts_finetune.core.layout import DONE, MANIFEST, STATE, WEIGHTS, Workspace


@pytest.fixture
def states(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "my vöice" / "work" / "phase1", keep_last=2)
    store.folder.mkdir(parents=True)
    return store


def contents_of(step: int, **state: Any) -> Contents:
    return Contents(
        lambda folder: write(folder / WEIGHTS, b"weights of %d" % step * 100),
        lambda folder: write(folder / "optimizer.safetensors", b"moments of %d" % step * 100),
        2600,
        {"step": step, **state},
    )


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def save(store: CheckpointStore, step: int, is_best: bool = False, **state: Any) -> bool:
    return store.save(step, contents_of(step, **state), is_best)


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def best_step(store: CheckpointStore) -> int | None:
    best = store.best()
    return best.step if best else None


def unheard(checkpoint: Checkpoint, damage: str) -> None:
    raise AssertionError(f"{checkpoint.folder}: {damage}")


def test_an_empty_store(states: CheckpointStore) -> None:
    assert (states.states(), states.latest(unheard), states.best(), states.done) == ([], None, None, False)
    states.prune()


def test_a_state_comes_back_as_saved(states: CheckpointStore) -> None:
    save(states, 200, name="vöice", nested={"loss": 0.1, "nothing": None})
    state = states.latest(unheard)
    assert state is not None
    assert (state.step, state.damage()) == (200, None)
    assert state.state == {"step": 200, "name": "vöice", "nested": {"loss": 0.1, "nothing": None}}
    assert state.weights.read_bytes() == b"weights of 200" * 100
    assert names(states) == ["step-00000200"]
    files = read_json(state.folder / MANIFEST)["files"]
    assert {name: file["bytes"] for name, file in files.items()} == {
        name: (state.folder / name).stat().st_size for name in (WEIGHTS, STATE, "optimizer.safetensors")
    }


def test_the_newest_stay(states: CheckpointStore) -> None:
    for step in (0, 200, 400, 600):
        save(states, step)
    assert names(states) == ["step-00000400", "step-00000600"]


def test_a_state_saved_twice_is_the_later_one(states: CheckpointStore) -> None:
    save(states, 200, attempt=1)
    save(states, 200, attempt=2)
    assert steps(states) == [200]
    assert states.states()[0].state["attempt"] == 2


def test_a_large_step_count(states: CheckpointStore) -> None:
    save(states, 99_999_999)
    save(states, 100_000_001)
    assert 100_000_001 in steps(states)


def test_the_best_is_one_file_with_its_state(states: CheckpointStore) -> None:
    save(states, 200, is_best=True)
    best = states.best()
    assert best is not None
    assert (best.step, best.damage()) == (200, None)
    assert best.weights.samefile(states.states()[0].weights)
    assert not (best.folder / "optimizer.safetensors").exists()
    save(states, 400)
    save(states, 600)
    assert steps(states) == [400, 600]
    assert best.weights.read_bytes() == b"weights of 200" * 100  # outlives its state
    save(states, 800, is_best=True)
    assert [name for name in names(states) if "best" in name] == ["best-00000800"]


def test_best_again_costs_nothing(states: CheckpointStore) -> None:
    save(states, 200, is_best=True)
    before = (states.folder / "best-00000200").stat().st_ino
    states.publish_best(states.states()[0])
    assert (states.folder / "best-00000200").stat().st_ino == before


def test_a_damaged_best_is_replaced_by_its_state(states: CheckpointStore) -> None:
    save(states, 200, is_best=True)
    best = states.best()
    assert best is not None
    best.weights.unlink()
    best.weights.write_text("something else")
    assert best.damage()
    states.publish_best(states.states()[0])
    assert best.damage() is None
    assert best.weights.samefile(states.states()[0].weights)


def test_a_kill_between_two_bests_leaves_one_in_the_end(
    states: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(states, 200, is_best=True)
    with monkeypatch.context() as patch:
        patch.setattr("xtts_finetune.checkpoints.store.discard", _killed)
        with pytest.raises(KeyboardInterrupt):
            save(states, 400, is_best=True)
    assert best_step(states) == 400
    states.publish_best(states.states()[-1])
    assert [name for name in names(states) if "best" in name] == ["best-00000400"]


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_without_hard_links_files_are_copied(states: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    save(states, 200, is_best=True)
    best = states.best()
    assert best is not None
    assert best.damage() is None
    assert not best.weights.samefile(states.states()[0].weights)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: flip_in_the_middle(folder / WEIGHTS), f"{WEIGHTS} has changed since it was written"),
        (lambda folder: flip_in_the_middle(folder / STATE), f"{STATE} has changed since it was written"),
        (lambda folder: os.truncate(folder / WEIGHTS, 50), f"{WEIGHTS} is missing or cut short"),
        (lambda folder: (folder / WEIGHTS).open("ab").write(b"more"), f"{WEIGHTS} is missing or cut short"),
        (lambda folder: (folder / "optimizer.safetensors").unlink(), "optimizer.safetensors is missing or cut short"),
        (lambda folder: os.truncate(folder / MANIFEST, 40), f"{MANIFEST} cannot be read"),
        (lambda folder: os.truncate(folder / MANIFEST, 0), f"{MANIFEST} cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), f"{MANIFEST} cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text('{"files": []}'), f"{MANIFEST} cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text('{"files": {"x": 1}}'), f"{MANIFEST} cannot be read"),
        (lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe"), f"{MANIFEST} cannot be read"),
    ],
)
def test_damage_is_found_and_passed_over(states: CheckpointStore, damage: Callable[[Path], object], said: str) -> None:
    save(states, 200)
    save(states, 400)
    damage(states.folder / "step-00000400")
    heard: list[tuple[int, str]] = []
    latest = states.latest(lambda checkpoint, text: heard.append((checkpoint.step, text)))
    assert latest is not None
    assert latest.step == 200
    assert heard[0][0] == 400
    assert heard[0][1].startswith(said)
    states.discard_newer(latest.step)
    assert names(states) == ["step-00000200"]


@pytest.fixture
def bad_disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A disk that holds other bytes than it was given, of files whose names are put in here, once each."""
    real, bad = os.fsync, list[str]()

    def fsync(descriptor: int) -> None:
        real(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.name in bad:
            bad.remove(path.name)
            flip_in_the_middle(path)

    monkeypatch.setattr(os, "fsync", fsync)
    return bad


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="names of open files are looked up in /proc")


@needs_proc
@pytest.mark.parametrize("name", [WEIGHTS, "optimizer.safetensors", STATE])
def test_what_the_disk_holds_is_read_back_before_the_old_state_goes(
    states: CheckpointStore, bad_disk: list[str], name: str
) -> None:
    states.keep_last = 1
    save(states, 200, is_best=True)
    bad_disk += [name] * 2
    with pytest.raises(UserError, match=f"does not hold what is written to it\n.*\n *{name} has changed"):
        save(states, 400, is_best=True)
    assert names(states) == ["best-00000200", "step-00000200"]
    assert states.latest(unheard) is not None
    assert bad_disk == []


@needs_proc
def test_a_state_that_came_back_different_is_written_again(states: CheckpointStore, bad_disk: list[str]) -> None:
    bad_disk.append(WEIGHTS)
    save(states, 200, is_best=True)
    latest, best = states.latest(unheard), states.best()
    assert latest is not None
    assert best is not None
    assert best.damage() is None


@needs_proc
def test_a_best_that_cannot_be_a_link_is_read_back_too(
    states: CheckpointStore, bad_disk: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(states, 200, is_best=True)
    save(states, 400)
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    bad_disk.append(WEIGHTS)
    with pytest.raises(UserError, match="does not hold what is written to it"):
        states.publish_best(states.states()[-1])
    assert best_step(states) == 200


def test_a_state_without_its_manifest_is_none(states: CheckpointStore) -> None:
    for step in (200, 400):
        save(states, step)
    (states.folder / "step-00000400" / MANIFEST).unlink()
    assert steps(states) == [200]
    latest = states.latest(unheard)
    assert latest is not None
    assert latest.step == 200
    states.prune()  # what a kill left half-deleted
    assert names(states) == ["step-00000200"]


def test_a_state_that_was_half_deleted_is_none(states: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of it a kill left: it must not count as kept."""
    for step in (0, 200):
        save(states, step)
    with monkeypatch.context() as patch:
        patch.setattr("xtts_finetune.core.files.shutil.rmtree", _killed)
        with pytest.raises(KeyboardInterrupt):
            save(states, 400)
    assert steps(states) == [200, 400]
    states.discard_newer(400)
    assert names(states) == ["step-00000200", "step-00000400"]


def test_nothing_is_published_when_writing_fails(states: CheckpointStore) -> None:
    save(states, 200)

    def fail(folder: Path) -> None:
        write(folder / WEIGHTS, b"half")
        raise OSError(errno.EIO, "Input/output error")

    for step in (200, 400):
        with pytest.raises(OSError, match="Input/output error"):
            states.save(step, Contents(fail, fail, 0, {}), is_best=True)
    assert names(states) == ["step-00000200"]
    assert states.states()[0].damage() is None


def test_what_a_kill_left_is_cleared_away(states: CheckpointStore) -> None:
    """Folders of half-written states, and files: the curve is published here, too."""
    left = half(states.folder / "step-00000400")
    left.mkdir()
    (left / WEIGHTS).write_bytes(b"half")
    (left / MANIFEST).write_text("{}")
    half(states.folder / "curve.jsonl").write_text("half")
    assert states.states() == []
    save(states, 200)
    assert names(states) == ["step-00000200"]


def test_what_is_not_the_stores_is_left_alone(states: CheckpointStore) -> None:
    save(states, 200, is_best=True)
    foreign = ["step-abc", "step-", "best-of-all", "step-00000200 (copy)", "notes", "step-12"]
    for name in foreign:
        shutil.copytree(states.folder / "step-00000200", states.folder / name)
    (states.folder / "step-00000300").write_text("a file")
    (states.folder / "curve.jsonl").write_text("")
    assert (steps(states), best_step(states)) == ([200], 200)
    save(states, 400)
    save(states, 600)
    assert steps(states) == [400, 600]
    assert set(foreign) < set(names(states))


def test_a_file_in_the_place_of_a_state_makes_way(states: CheckpointStore) -> None:
    (states.folder / "step-00000200").write_text("a file")
    (states.folder / "best-00000200").write_text("another")
    save(states, 200, is_best=True)
    assert names(states) == ["best-00000200", "step-00000200"]


def test_done(states: CheckpointStore) -> None:
    save(states, 200)
    states.mark_done(summary(200))
    assert states.done
    assert states.summary == summary(200)
    states.reopen()
    assert not states.done
    states.reopen()
    states.mark_done(summary())
    assert states.done


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "5", '{"figures": {}, "curve": ""}', '{"figures": 5, "curve": ""}']
)
def test_a_damaged_done_is_none(states: CheckpointStore, content: str) -> None:
    """A disk that lost it: the last state says the same again."""
    (states.folder / DONE).write_text(content)
    assert not states.done


def test_done_needs_its_curve(states: CheckpointStore) -> None:
    states.mark_done({"figures": summary()["figures"]})
    assert not states.done


def test_all_of_it_gets_second_names(states: CheckpointStore, tmp_path: Path) -> None:
    save(states, 200, is_best=True)
    save(states, 400)
    states.mark_done(summary())
    target = tmp_path / "checkpoints" / "phase1"
    (target / "step-00000100").mkdir(parents=True)  # of a run before
    states.link_to(target)
    linked = sorted(path.relative_to(target) for path in target.rglob("*") if path.is_file())
    kept = [*states.folder.glob("step-*/*"), *states.folder.glob("best-*/*"), states.folder / DONE]
    assert linked == sorted(path.relative_to(states.folder) for path in kept)
    assert len(linked) == 2 * 4 + 3 + 1
    assert all((target / name).samefile(states.folder / name) for name in linked)
    discard(states.folder)
    assert Checkpoint(target / "step-00000400", 400).damage() is None


HOLDER = """
import sys, time
from pathlib import Path
from xtts_finetune.checkpoints.store import CheckpointStore
with CheckpointStore(Path(sys.argv[1]), 1).locked():
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_trainer_at_a_time(states: CheckpointStore) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLDER, str(states.folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=f"process {holder.pid}, .*\n *remedy: .* kill {holder.pid} "):
                states.locked().__enter__()
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
    with states.locked():  # death released it
        save(states, 200)
    with states.locked():  # and so does the end
        save(states, 400)


def test_no_trainer_starts_while_its_files_are_cleared_away(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    store = CheckpointStore(workspace.work("phase1"), 1)
    with trainers_kept_out(workspace) as live:
        assert live == set()
        with pytest.raises(UserError, match=f"xtts-finetune clean is at work here: process {os.getpid()}\n"):
            store.locked().__enter__()
    with store.locked(), trainers_kept_out(workspace) as live:
        assert live == {"phase1"}
    assert sorted(path.name for path in tmp_path.rglob("*.holder")) == []


def test_a_failure_releases_the_lock(states: CheckpointStore) -> None:
    with pytest.raises(ZeroDivisionError), states.locked():
        raise ZeroDivisionError
    with states.locked():
        pass


def test_locking_makes_the_folder(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "work" / "phase2", 1)
    with store.locked():
        assert store.folder.is_dir()
        discard(store.folder)  # does not lose the lock
        with pytest.raises(UserError), CheckpointStore(store.folder, 1).locked():
            pass
