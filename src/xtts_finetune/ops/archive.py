"""The states of finished phases in a DVC remote: pushed, read back there, and only then dropped here; and back again.

What brings them back stands in checkpoints-archive.json, for git to keep: for each run, known by its exported model,
what dvc.lock named as its states.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xtts_finetune.checkpoints.lock import trainers_kept_out
from xtts_finetune.checkpoints.reader import CheckpointReader
from xtts_finetune.core.commands import quoted
from xtts_finetune.core.disk import file_system, free_bytes, shown
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.diskspace.plan import Plan, Request
from xtts_finetune.diskspace.survey import make_plan
from xtts_finetune.diskspace.sweep import COMMIT, plan_lines, sweep
from xtts_finetune.dvcio.cache import Cache, named_entries, rename_outs
from xtts_finetune.dvcio.command import dvc
from xtts_finetune.dvcio.named_run import refuse_unless_named
from xtts_finetune.dvcio.outs import lost_states, out_path

RECORD = "checkpoints-archive.json"
_CHUNK = 2**22  # bytes read at a time

Entry = dict[str, Any]  # of an out in dvc.lock


def remotes(workspace: Workspace) -> dict[str, str]:
    """DVC's remotes: name → address."""
    from dvc.config import Config

    return {name: str(remote["url"]) for name, remote in Config(str(workspace.root / ".dvc"))["remote"].items()}


class Archive:
    """A DVC remote that keeps states.

    Raises:
        UserError: there is no such remote, or its folder is not there.
    """

    def __init__(self, workspace: Workspace, remote: str) -> None:
        self.workspace, self.remote = workspace, remote
        known = remotes(workspace)
        if remote not in known:
            listed = ", ".join(f"{name} ({url})" for name, url in known.items())
            what = f"there is no such DVC remote; there is: {listed}" if known else "there is no DVC remote yet"
            remedy = f"dvc remote add {quoted(remote)} /where"
            raise UserError("no archive", [Problem(f"--archive {remote}", what, remedy)])
        self.url = known[remote]
        self.bytes: dict[str, int] = {}  # of what is archived, by out
        self.folder = None if "://" in self.url else Path(self.url)
        if self.folder and not self.folder.is_dir():  # a push would create it, on the disk below the mount point
            remedy = f"mount its disk, or if it is to be new: mkdir -p {quoted(self.url)}"
            raise UserError("no archive", [Problem(f"DVC remote {remote}: {self.url}", "is not there", remedy)])

    def store_plan(self, request: Request) -> Iterator[str]:
        """What would be pushed and what would go then."""
        plan = make_plan(self.workspace, request)
        yield from self._pushing(plan)
        yield from plan_lines(plan)
        if plan.items:
            yield from ["", f"do it: {request.command.replace('REMOTE', quoted(self.remote))}"]

    def store(self, request: Request) -> Iterator[str]:
        """Push the states, prove that they are there, drop them here."""
        yield from sweep(self.workspace, request, keeper=self)

    def restore_plan(self) -> Iterator[str]:
        """What would be brought back."""
        for out, entry in self._archived().items():
            yield f"{out}: {shown(entry['bytes'])} from {self.remote} ({self.url})"
        yield from ["", f"do it: xtts-finetune clean --archive {quoted(self.remote)} --restore --yes"]

    def restore(self) -> Iterator[str]:
        """Bring the states of this run back, where they were.

        Raises:
            UserError: they are of another run, there is no room for them, or the remote does not have them whole.
        """
        with trainers_kept_out(self.workspace):
            entries = self._archived()
            self._refuse_without_room(entries)
            refuse_unless_named(self.workspace, pruned_is_fine=True, lost=lost_states(self.workspace))
            before = {out: named_entries(self.workspace)[out] for out in entries}
            rename_outs(self.workspace, {out: _of_lock(entry) for out, entry in entries.items()})
            try:
                dvc(self.workspace, "pull", "--force", "--remote", self.remote, *entries)
                self._verify_here(entries)
            except UserError:
                rename_outs(self.workspace, before)
                dvc(self.workspace, "checkout", "--force", *before)
                raise
            yield from (
                f"{out}: back, {shown(entry['bytes'])}, and every byte as written" for out, entry in entries.items()
            )
            yield COMMIT

    def _pushing(self, plan: Plan) -> Iterator[str]:
        going = self._going(plan)
        if not going:
            yield "nothing to archive: no state here goes, for the reasons below"
            return
        cache, entries = Cache(self.workspace), named_entries(self.workspace)
        files = {out: cache.paths(cache.below([entries[out]["md5"]])) for out in going}
        self.bytes = {out: sum(file.stat().st_size for file in files[out]) for out in files}
        size = shown(sum(self.bytes.values()))
        yield f"{size} of {', '.join(going)} to {self.remote} ({self.url}), read back there; then"
        if self.folder and file_system(self.folder) == file_system(self.workspace.root):
            yield "note: the remote is on the disk that this is to free; what it takes there is not free"

    def _going(self, plan: Plan) -> list[str]:
        """The outs whose states go from here; of what is gone already nothing can be archived."""
        gone = {out_path(self.workspace, self.workspace.checkpoints(phase)) for phase in plan.lost}
        return [out for out in plan.outs if out not in gone]

    def secure(self, going: Plan) -> Iterator[str]:
        """Push the states and read them back.

        Raises:
            UserError: DVC fails, or what is there is not what was pushed.
        """
        yield from self._pushing(going)
        outs = self._going(going)
        if outs:
            dvc(self.workspace, "push", "--remote", self.remote, *outs)
            self._verify_there(outs)
            yield f"read back from {self.remote}, every byte as it was; {RECORD} says how to get it back: commit it"

    def remember(self, going: Plan) -> None:
        """Record what dvc.lock names as the states of this run."""
        outs = self._going(going)
        if not outs:
            return
        file = self.workspace.root / RECORD
        record: dict[str, dict[str, Entry]] = read_json(file) if file.exists() else {}
        entries = named_entries(self.workspace)
        for out in outs:
            record.setdefault(out, {})[entries[_model_of(out)]["md5"]] = {
                **entries[out],
                "remote": self.remote,
                "bytes": self.bytes[out],
            }
        write_json(file, record)

    def _verify_there(self, outs: list[str]) -> None:
        """Read every object from the remote, and compare it with its name.

        DVC pushes nothing of a folder whose listing is there: a file that was lost since is brought there here.
        """
        from dvc.fs import localfs
        from dvc.repo import Repo

        from xtts_finetune.core.bars import Bar

        entries = named_entries(self.workspace)
        cache = Cache(self.workspace)
        oids = sorted(cache.below(entries[out]["md5"] for out in outs))
        problems = []
        with Repo(str(self.workspace.root)) as repo:
            store = repo.cloud.get_remote_odb(self.remote, "push")
            for oid in Bar(oids, desc=f"reading back from {self.remote}", unit="file", leave=False):
                digest = _md5(store, oid)
                if digest is None and cache.path(oid).is_file():
                    store.add(str(cache.path(oid)), localfs, oid)
                    digest = _md5(store, oid)
                if digest != oid.removesuffix(".dir"):
                    remedy = "delete it there, and run this again"
                    problems.append(
                        Problem(f"{self.remote}: {store.oid_to_path(oid)}", f"is {digest or 'missing'}", remedy)
                    )
        if problems:
            raise UserError("the archive is not what was pushed; nothing was dropped here", problems)

    def _archived(self) -> dict[str, Entry]:
        """What dvc.lock named as the states of the run that is here."""
        file = self.workspace.root / RECORD
        record: dict[str, dict[str, Entry]] = read_json(file) if file.exists() else {}
        entries = named_entries(self.workspace)
        entry_of, problems = {}, []
        for out, runs in record.items():
            model = entries.get(_model_of(out), {}).get("md5")
            if model in runs:
                entry_of[out] = runs[model]
            else:
                what = f"{_model_of(out)} is of another run than what was archived"
                problems.append(Problem(out, what, "bring back the dvc.lock of that run: git log -- dvc.lock"))
        if not record:
            problems = [Problem(RECORD, "is not there: nothing was archived", "xtts-finetune clean --archive REMOTE")]
        if not entry_of:
            raise UserError("nothing can be restored", problems)
        return entry_of

    def _refuse_without_room(self, entries: dict[str, Entry]) -> None:
        place = Cache(self.workspace).folder
        needed, free = sum(entry["bytes"] for entry in entries.values()), free_bytes(place)
        if needed > free:
            what = f"{shown(needed)} are to come back, {shown(free)} are free"
            raise UserError("no room to restore", [Problem(str(place), what, "xtts-finetune clean --intermediates")])

    def _verify_here(self, entries: dict[str, Entry]) -> None:
        problems = []
        for phase in (phase for phase in PHASES if f"checkpoints/{phase}" in entries):
            for state in CheckpointReader(self.workspace.checkpoints(phase)).states():
                damage = state.damage()
                if damage:
                    problems.append(Problem(str(state.folder), damage, "look for another copy of the archive"))
        if problems:
            raise UserError("what came back from the archive is damaged; all is as before", problems)


def _of_lock(entry: Entry) -> Entry:
    return {key: entry[key] for key in ("md5", "size", "nfiles")}


def _model_of(out: str) -> str:
    return out.replace("checkpoints/", "models/", 1)


def _md5(store: Any, oid: str) -> str | None:
    """Of an object's content in a remote, read as a stream; None if it is not there."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with store.fs.open(store.oid_to_path(oid), "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return None
    return digest.hexdigest()
