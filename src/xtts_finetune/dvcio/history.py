"""What git's commits, branches, tags and stashes, and DVC's experiments, name in DVC's cache.

`git log` says which contents dvc.lock and the .dvc files ever had, `git diff-tree` which of them the tips of branches,
tags, experiments and stashes have now. What DVC's experiments keep for their own use is nobody's (refs/exps/exec,
apply, temp; the queue has no results yet).
"""

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml

from xtts_finetune.core.commands import quoted
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.core.look import once_a_look
from xtts_finetune.core.yamlfile import said_in
from xtts_finetune.dvcio.cache import is_object, named_outs

_OWN_REFS = tuple(f"refs/exps/{kind}/" for kind in ("exec", "apply", "temp", "celery", "stash"))
_QUEUED = re.compile(r"(?:commit: )?dvc-exp:[0-9a-f]+(?::[0-9a-f]+)?:([^:]+)")  # dvc/repo/experiments/refs, stash.py
_OBJECT = re.compile(r"\bmd5: ([0-9a-f]{32}(?:\.dir)?)\b")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_FILES = ("dvc.lock", "*.dvc")  # as git matches paths
_NOTHING = {40: "4b825dc642cb6eb9a060e54bf8d69288fbee4904"}  # git's empty tree, by the digits of its names
_NOTHING[64] = "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
_STASHED = "git's "
_UNKNOWN = "git cannot be asked what it names"
_SHOWN = 4  # names of those that have the same content


@dataclass(frozen=True)
class Revision:
    """What the same commits have in dvc.lock and in .dvc files."""

    who: str  # for a reader: "HEAD, branch main", "experiment tipsy-lamb", "commit 1a2b3c4d5 of 2026-11-24 (Lower lr)"
    is_tip: bool  # of HEAD, a branch, a tag, an experiment or a stash, or staged; else only a commit before names it
    is_pinned: bool  # by a tag, an experiment or a stash: it names this content for good, a branch moves on
    way_back: str  # to type; loses no edit: git stashes it, or refuses
    commit: str  # the first of them, by a name that git knows; "" of what is only staged
    texts: tuple[tuple[str, str], ...]  # folder and text of the files

    @cached_property
    def outs(self) -> dict[str, str]:
        """Path → object."""
        return {
            f"{folder}/{path}" if folder else path: oid
            for folder, text in self.texts
            for path, oid in _outs(text).items()
        }

    def may_name(self, digests: Set[str]) -> bool:
        """Whether it can name one of these objects, without the .dir of a folder: to parse it takes far longer."""
        return any("\\" in text or not digests.isdisjoint(_DIGEST.findall(text)) for _, text in self.texts)


@once_a_look
def revisions(workspace: Workspace) -> Sequence[Revision]:
    """All that git has of dvc.lock and the .dvc files, each content once: of tips first, then the newest first.

    Nothing outside of a git repository.

    Raises:
        UserError: git is there, and cannot say.
    """
    root = workspace.root.resolve()
    if not _is_in_git(root):
        return []
    refs = list(dict.fromkeys(_refs(root)))
    tips, commits = _tips(root, refs), _commits(root, refs)
    files = list(dict.fromkeys((*tips, *commits)))
    contents = _contents(root, list(dict.fromkeys(file.blob for file in files)))
    by_name: dict[str, Revision] = {}
    for file in files:
        refs = tips.get(file, [])
        who = _listed([ref.name for ref in refs]) or commits[file].name
        first = (refs or [commits[file]])[0]
        texts = (*(by_name[who].texts if who in by_name else ()), (file.folder, contents[file.blob]))
        pins = any(ref.pins for ref in refs)
        by_name[who] = Revision(who, bool(refs), pins, first.way_back, first.commit, texts)
    return list(by_name.values())


def short_commit(workspace: Workspace, commit: str) -> str:
    """Nine digits of a commit, by any name that git knows it by.

    Raises:
        UserError: git does not know it.
    """
    return _git(workspace.root, "rev-parse", "--short=9", f"{commit}^{{commit}}").strip()


def is_detached(workspace: Workspace) -> bool:
    """Whether a commit would be on no branch, as far as git says."""
    try:
        return _git(workspace.root, "rev-parse", "--revs-only", "--abbrev-ref", "HEAD").strip() == "HEAD"
    except UserError:
        return False


def params_at(workspace: Workspace, commit: str) -> dict[str, Any]:
    """What params.yaml says at a commit; nothing where it is not there, or cannot be read."""
    try:
        content = said_in(_git(workspace.root, "show", f"{commit}:./{workspace.params.name}"))
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def experiments(workspace: Workspace) -> list[str]:
    """What git calls DVC's experiments, of all commits; their names are what follows the last slash.

    None outside of a git repository.
    """
    if not _is_in_git(workspace.root.resolve()):
        return []
    refs = _git(workspace.root, "for-each-ref", "--format=%(refname)", "refs/exps").splitlines()
    return [ref for ref in refs if not f"{ref}/".startswith(_OWN_REFS)]


def experiments_without_result(workspace: Workspace) -> dict[str, list[str]]:
    """The names of those that failed or were stopped, and of those that wait in DVC's queue."""
    places = {"failed": "refs/exps/celery/failed", "queued": "refs/exps/celery/stash"}
    there = _git(workspace.root, "for-each-ref", "--format=%(refname)", "refs/exps/celery").splitlines()
    found = {}
    for what, ref in places.items():
        said = _git(workspace.root, "reflog", "show", "--format=%gs", ref).splitlines() if ref in there else []
        found[what] = [name[1] for line in said if (name := _QUEUED.match(line))]
    return found


def files_at(workspace: Workspace, commit: str, files: Iterable[Path]) -> dict[Path, str]:
    """The text of those of the files that a commit has."""
    names = {file: file.relative_to(workspace.root).as_posix() for file in files}
    listed = _git(workspace.root, "ls-tree", commit, "--", *names.values()).splitlines()
    blobs = {path.strip('"'): about.split()[2] for about, _, path in (line.partition("\t") for line in listed)}
    found = {file: blobs[name] for file, name in names.items() if name in blobs}
    texts = _contents(workspace.root, list(dict.fromkeys(found.values())))
    return {file: texts[blob] for file, blob in found.items()}


def objects_of(lock: str) -> dict[str, str]:
    """Path → object of the outs that the text of a dvc.lock names."""
    return dict(_outs(lock))


def has_other_states_than_head(workspace: Workspace) -> bool:
    """Whether dvc.lock names, of a phase whose model is that of HEAD's dvc.lock, other states. Not where git can't say.

    So it is from when `clean` has let states go until dvc.lock is committed.
    """
    try:
        before = _outs(_git(workspace.root, "show", f"HEAD:./{workspace.dvc_lock.name}"))
    except UserError:
        return False
    now = named_outs(workspace)
    same = [phase for phase in PHASES if before.get(f"models/{phase}", "") == now.get(f"models/{phase}")]
    return any(before.get(f"checkpoints/{phase}") != now.get(f"checkpoints/{phase}") for phase in same)


@dataclass(frozen=True)
class _File:
    """A dvc.lock or .dvc file as somebody has it: the outs of the latter are relative to its folder."""

    folder: str
    blob: str

    @classmethod
    def at(cls, path: str, blob: str) -> Self:
        return cls(path.strip('"').rpartition("/")[0], blob)


def _is_in_git(root: Path) -> bool:
    return any((folder / ".git").exists() for folder in (root, *root.parents))


@dataclass(frozen=True)
class _Ref:
    commit: str
    name: str
    way_back: str
    pins: bool = False


def _tips(root: Path, refs: list[_Ref]) -> dict[_File, list[_Ref]]:
    """Who has a file now. All are asked for at once: of hundreds of experiments a process each takes a second."""
    asked = "".join(f"{_NOTHING[len(tree)]} {tree}\n" for tree in _trees(root, refs))
    how = ("--stdin", "-r", "--raw", "--no-abbrev", "--no-renames", "--relative")
    refs_of: dict[_File, list[_Ref]] = {}
    ref = iter(refs)
    for line in _lines(_git(root, "diff-tree", *how, "--", *_FILES, given=asked)):
        about, _, path = line.partition("\t")
        if not line.startswith(":"):  # both trees
            now = next(ref)
        else:  # :000000 100644 <zeros> <blob> A\t<path>
            refs_of.setdefault(_File.at(path, about.split()[3]), []).append(now)
    staged = _Ref("", "staged for a commit", "git stash --keep-index && dvc checkout")
    for line in _lines(_git(root, "ls-files", "--stage", "--", *_FILES)):
        about, _, path = line.partition("\t")
        refs_of.setdefault(_File.at(path, about.split()[1]), [staged])
    return refs_of


def _trees(root: Path, refs: list[_Ref]) -> list[str]:
    """Their trees.

    Raises:
        UserError: git has lost one.
    """
    asked = "".join(f"{ref.commit}^{{tree}}\n" for ref in refs)
    trees = _git(root, "cat-file", "--batch-check=%(objectname)", given=asked).splitlines()
    lost = [ref.name for ref, tree in zip(refs, trees, strict=True) if tree.endswith(" missing")]
    if lost:
        remedy = "see what git fsck says; without it nobody knows which runs are named"
        raise UserError(_UNKNOWN, [Problem(name, "git has lost what it had", remedy) for name in lost])
    return trees


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= _SHOWN else f"{', '.join(names[:_SHOWN])} and {len(names) - _SHOWN} more"


def _refs(root: Path) -> Iterator[_Ref]:
    """HEAD (of every worktree), branches, tags, experiments, every stash."""
    own, place = _git(root, "rev-parse", "--revs-only", "HEAD").strip(), ""  # "": there is no commit yet
    if own:
        yield _Ref(own, "HEAD", "git stash && dvc checkout")
    for line in _git(root, "worktree", "list", "--porcelain").splitlines():
        kind, _, text = line.partition(" ")
        place = text if kind == "worktree" else place
        if kind == "HEAD" and text != own and text.strip("0"):
            short = text[:9]
            yield _Ref(text, f"HEAD of {place}", f"git checkout {short} && dvc checkout")
    for line in _git(root, "for-each-ref", "--format=%(refname) %(objecttype) %(*objecttype)").splitlines():
        name, *types = line.split()
        if "commit" in types and not f"{name}/".startswith((*_OWN_REFS, "refs/stash/")):
            yield _called(name)
    for line in _git(root, "stash", "list", "--format=%H %gd").splitlines():
        commit, _, name = line.partition(" ")
        yield _Ref(commit, f"{_STASHED}{name}", f"git stash apply {quoted(name)} && dvc checkout", pins=True)


def _called(ref: str) -> _Ref:
    if ref.startswith("refs/exps/"):
        name = ref.rpartition("/")[2]
        return _Ref(ref, f"experiment {name}", f"dvc exp apply {quoted(name)}", pins=True)
    kind, prefix = ("tag", "refs/tags/") if ref.startswith("refs/tags/") else ("branch", "refs/heads/")
    name = ref.removeprefix(prefix).removeprefix("refs/remotes/")
    return _Ref(ref, f"{kind} {name}", f"git checkout {quoted(name)} && dvc checkout", pins=kind == "tag")


def _commits(root: Path, refs: list[_Ref]) -> dict[_File, _Ref]:
    """Of every file that can be reached the newest commit that brought it."""
    commit_of: dict[_File, _Ref] = {}
    stashes = [ref.commit for ref in refs if ref.name.startswith(_STASHED)]
    skipped = [f"--exclude={prefix}*" for prefix in _OWN_REFS]
    how = ("--full-history", "-m", "--raw", "--no-abbrev", "--no-renames", "--relative", "--format=commit %H %cs %s")
    commit = _Ref("", "", "")
    for line in _lines(_git(root, "log", *how, *skipped, "--all", *stashes, "--", *_FILES)):
        if line.startswith("commit "):
            _, digits, day, subject = line.split(" ", 3)
            short = digits[:9]
            commit = _Ref(digits, f"commit {short} of {day} ({subject})", f"git checkout {short} && dvc checkout")
        elif line.startswith(":"):  # :100644 100644 <blob before> <blob> M\t<path>; of a deleted file only zeros
            about, _, path = line.partition("\t")
            blob = about.split()[3]
            if blob.strip("0"):
                commit_of.setdefault(_File.at(path, blob), commit)
    return commit_of


def _contents(root: Path, blobs: list[str]) -> dict[str, str]:
    """The text of each blob."""
    stream = _git_bytes(root, "cat-file", "--batch", given="".join(f"{blob}\n" for blob in blobs))
    texts, at = {}, 0
    for blob in blobs:  # <blob> blob <bytes>\n<content>\n
        end = stream.index(b"\n", at)
        size = int(stream[at:end].split()[2])
        texts[blob] = stream[end + 1 : end + 1 + size].decode("utf-8", errors="replace")
        at = end + size + 2
    return texts


def _outs(content: str) -> dict[str, str]:
    """Path → object. Of a text that is no dvc.lock (left with the marks of a merge), everything that looks like one."""
    try:
        if "<<" in content:  # merged from elsewhere in it
            raise ValueError
        whole = yaml.compose(content, yaml.CBaseLoader)  # in half of the time that it takes to make values of all
        stages = _below(whole, "stages").values() if "stages" in _below(whole) else [whole]
        outs = [_below(out) for stage in stages if "outs" in _below(stage) for out in _below(stage)["outs"].value]
        return {out["path"].value: out["md5"].value for out in outs if "md5" in out and is_object(out["md5"].value)}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError):
        return {oid: oid for oid in _OBJECT.findall(content)}


def _below(node: Any, *keys: str) -> dict[str, Any]:
    """What a mapping has, by key; first follows `keys`. Raises AttributeError, KeyError, TypeError or ValueError."""
    for key in keys:
        node = _below(node)[key]
    return {name.value: value for name, value in node.value}


def _lines(said: str) -> list[str]:
    """By line feeds alone: a path may have in it what Python, too, takes for the end of a line."""
    return said.removesuffix("\n").split("\n") if said else []


def _git(root: Path, *arguments: str, given: str = "") -> str:
    return _git_bytes(root, *arguments, given=given).decode("utf-8", errors="replace")


def _git_bytes(root: Path, *arguments: str, given: str = "") -> bytes:
    """What a git command says.

    Raises:
        UserError: it fails, or there is no git.
    """
    command = ["git", "-c", "core.quotePath=off", *arguments]
    where, remedy = f"git {' '.join(arguments)[:60]}", "see what it says; without it nobody knows which runs are named"
    try:
        environment = {name: text for name, text in os.environ.items() if not name.endswith("_PATHSPECS")}
        environment["GIT_OPTIONAL_LOCKS"] = "0"
        done = subprocess.run(
            command, cwd=root, env=environment, input=given.encode(), capture_output=True, check=False
        )
    except FileNotFoundError:
        raise UserError("git is needed here", [Problem(where, "git is not installed", "install git")]) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", errors="replace").strip() or f"exit code {done.returncode}"
        raise UserError(_UNKNOWN, [Problem(where, said, remedy)])
    return done.stdout
