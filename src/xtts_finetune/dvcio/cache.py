"""DVC's cache: the objects in it, and which of them the workspace's dvc.lock and *.dvc files name.

An object lies under its MD5; a folder is an object that lists the files below it, `<md5>.dir`.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import platformdirs
from configobj import ConfigObj, ConfigObjError

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json, write_text
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.look import once_a_look
from xtts_finetune.core.yamlfile import read_yaml

Listing = dict[str, str]  # of a folder: the path below it → the object
_DAMAGED = "DVC's files are damaged"
_OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")


class Cache:
    """The objects that DVC keeps for this workspace.

    Raises:
        UserError: DVC's configuration cannot be read.
    """

    def __init__(self, workspace: Workspace) -> None:
        settings = _settings(workspace)
        self.root = Path(settings.get("dir") or workspace.root / ".dvc" / "cache")
        self.folder = self.root / "files" / "md5"
        self.link_types: tuple[str, ...] = tuple(settings.get("type") or ("reflink", "copy"))  # the preferred first
        self.is_shared = not self.folder.resolve().is_relative_to(workspace.root.resolve())

    def path(self, oid: str) -> Path:
        assert is_object(oid), oid  # no name that comes from a file may lead out of the cache
        return self.folder / oid[:2] / oid[2:]

    def listing(self, oid: str) -> Listing:
        """The files of a folder; none if the object isn't there, or is a file's.

        Raises:
            UserError: it is no listing, or names what cannot be an object or a path below the folder.
        """
        if not oid.endswith(".dir") or not self.path(oid).is_file():
            return {}
        path = self.path(oid)
        seen = path.stat()
        return dict(_listing(path, seen.st_mtime_ns, seen.st_size))

    def objects(self) -> set[str]:
        """Everything that `dvc gc` looks at."""
        found = set[str]()
        for folder in _names_in(self.folder):
            if len(folder) == len("ff"):
                found.update(oid for name in _names_in(self.folder / folder) if is_object(oid := folder + name))
        return found

    def below(self, oids: Iterable[str]) -> set[str]:
        """These objects, and those that they list."""
        return {each for oid in oids for each in (oid, *self.listing(oid).values())}

    def paths(self, oids: Iterable[str]) -> list[Path]:
        """Where these objects lie, as far as they do."""
        return [path for path in map(self.path, sorted(oids)) if path.is_file()]

    def add(self, listing: Listing) -> dict[str, Any]:
        """Store a folder's listing, as DVC writes it; the entry that dvc.lock has for it.

        Raises:
            FileNotFoundError: an object that it lists is not there.
        """
        oid = listing_object(listing)
        if not self.path(oid).exists():
            write_text(self.path(oid), _as_written(listing))
            self.path(oid).chmod(0o444)
        return {"md5": oid, "size": self.size(listing.values()), "nfiles": len(listing)}

    def size(self, oids: Iterable[str]) -> int:
        """Bytes of these objects' content, each as often as it is named."""
        return sum(self.path(oid).stat().st_size for oid in oids)


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def is_object(oid: Any) -> bool:
    """Whether an object can be called so."""
    return isinstance(oid, str) and _OBJECT.fullmatch(oid) is not None


@lru_cache(maxsize=64)
def _listing(path: Path, _mtime: int, _size: int) -> Listing:
    """Remembered, as a report asks for those of models and states hundreds of times."""
    try:
        return dict(map(_listed, read_json(path)))
    except (ValueError, KeyError, TypeError) as error:
        remedy = f"delete {path}, and bring it back if dvc.lock names it: dvc fetch, or dvc repro"
        problem = Problem(str(path), f"is no listing that DVC wrote: {error}", remedy)
    raise UserError("DVC's cache is damaged", [problem])


def _listed(entry: dict[str, Any]) -> tuple[str, str]:
    """Path and object of an entry in a folder's listing.

    Raises:
        ValueError, KeyError, TypeError: it has none, or such as DVC never writes.
    """
    path, oid = entry["relpath"], entry["md5"]
    if not is_object(oid):
        raise ValueError(f"{oid!r} is no object")
    if PurePath(path).anchor or ".." in PurePath(path).parts:
        raise ValueError(f"{path!r} lies outside of the folder")
    return path, oid


def listing_object(listing: Listing) -> str:
    """How DVC calls a folder with these files."""
    return hashlib.md5(_as_written(listing).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _as_written(listing: Listing) -> str:
    return json.dumps([{"md5": oid, "relpath": path} for path, oid in sorted(listing.items())], sort_keys=True)


def _settings(workspace: Workspace) -> dict[str, Any]:
    """Of the cache, by DVC's configuration of every level."""
    folder = workspace.root / ".dvc"
    files = [*configuration_files(), folder / "config", folder / "config.local"]
    texts = tuple(file.read_bytes() if file.is_file() else b"" for file in files)
    links = _links_alone(texts)
    return _settings_in(folder, texts) if links is None else links


def configuration_files() -> list[Path]:
    """Of this system and this user, as DVC finds them (dvc/dirs.py): to ask it takes a fifth of `status`'s time."""
    of_the_system = os.environ.get("DVC_SYSTEM_CONFIG_DIR") or platformdirs.site_config_dir("dvc", "iterative")
    of_the_user = os.environ.get("DVC_GLOBAL_CONFIG_DIR") or platformdirs.user_config_dir("dvc", "iterative")
    return [Path(of_the_system, "config"), Path(of_the_user, "config")]


def _links_alone(texts: Iterable[bytes]) -> dict[str, Any] | None:
    """Where no level says more of the cache than how it links, as this project's own: that, as DVC understands it.

    None: it says more, or what only DVC can judge.
    """
    cache: dict[str, Any] = {}
    for text in texts:
        try:
            said = ConfigObj(text.decode().splitlines(), interpolation=False)
            sections = {name.lower(): section for name, section in said.items()}  # as DVC takes them
            cache |= {name.lower(): value for name, value in dict(sections.get("cache", {})).items()}
        except (ConfigObjError, ValueError, TypeError):
            return None
    said_links = cache.get("type", [])
    links = said_links.split(",") if isinstance(said_links, str) else said_links
    is_that_alone = cache.keys() <= {"type"} and set(links) <= {"reflink", "hardlink", "symlink", "copy"}
    return ({"type": links} if links else {}) if is_that_alone else None


@lru_cache(maxsize=16)
def _settings_in(folder: Path, files: tuple[bytes, ...]) -> dict[str, Any]:
    """Remembered by what the files say, as a command asks a dozen times, and DVC takes 5 ms each."""
    from dvc.config import Config, ConfigError

    try:
        settings: dict[str, Any] = Config(str(folder))["cache"]
    except ConfigError as error:
        problem = Problem(f"{folder / 'config'} or config.local", str(error), "correct it: dvc config --list")
        raise UserError("DVC's configuration cannot be used", [problem]) from None
    return settings


def named_entries(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """dvc.lock's outs: path → md5, size, nfiles."""
    stages = _read(workspace.dvc_lock).get("stages", {}).values()
    return {out["path"]: out for stage in stages for out in _outs(workspace.dvc_lock, stage)}


def named_dependencies(workspace: Workspace, stage: str) -> dict[str, str]:
    """What a stage used when it last ran, by dvc.lock: path → md5."""
    used = _read(workspace.dvc_lock).get("stages", {}).get(stage, {}).get("deps", [])
    return {dep["path"]: dep["md5"] for dep in used if "md5" in dep}


def named_params(workspace: Workspace, stage: str) -> dict[str, Any]:
    """What stood in params.yaml when a stage last ran, by dvc.lock: of the keys that it depends on."""
    used = _read(workspace.dvc_lock).get("stages", {}).get(stage, {})
    params: dict[str, Any] = used.get("params", {}).get(workspace.params.name, {})
    return params


def rename_outs(workspace: Workspace, entries: dict[str, dict[str, Any]]) -> None:
    """Let dvc.lock name other contents of these outs, and nothing else: what made them is not touched.

    `dvc commit` would also record the parameters as they stand now, and writes dvc.lock in place, where a full disk
    cuts it short.

    Raises:
        UserError: DVC is writing to it.
    """
    from dvc.lock import LockError, make_lock
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    path, own = workspace.dvc_lock, workspace.root / ".dvc" / "tmp"
    held = make_lock(str(own / "lock"), tmp_dir=str(own), friendly=True)
    try:
        held.lock()
    except LockError:
        busy = Problem(str(own / "lock"), "another command of DVC has it", "wait for it, then type this again")
        raise UserError("not now: DVC is at work here", [busy]) from None
    try:
        content = parse_yaml_for_update(path.read_text(encoding="utf-8"), str(path))
        for stage in content["stages"].values():
            for out in stage.get("outs", []):
                out.update(entries.get(out["path"], {}))
        write_text(path, dumps_yaml(content))
    finally:
        held.unlock()


def uncached_outs(workspace: Workspace) -> set[str]:
    """The outs that dvc.yaml keeps out of the cache."""
    stages = _read(workspace.root / "dvc.yaml").get("stages", {}).values()
    listed = [entry for stage in stages for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    named = [pair for entry in listed if isinstance(entry, dict) for pair in entry.items()]
    return {path for path, settings in named if settings.get("cache") is False}


@once_a_look
def named_outs(workspace: Workspace) -> Mapping[str, str]:
    """Every out that `dvc gc -w` keeps: its path → its object. What isn't cached in dvc.yaml is not among them."""
    uncached = uncached_outs(workspace)
    outs = {path: entry["md5"] for path, entry in named_entries(workspace).items() if path not in uncached}
    for file in _dvc_files(workspace.root):
        place = file.parent.relative_to(workspace.root)
        outs |= {(place / out["path"]).as_posix(): out["md5"] for out in _outs(file, _read(file))}
    return outs


def _outs(file: Path, stage: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The outs with an object, of a stage in dvc.lock or of a .dvc file.

    Raises:
        UserError: one names what cannot be an object.
    """
    for out in (out for out in stage.get("outs", []) if "md5" in out):
        if not is_object(out["md5"]):
            problem = Problem(f"{file}: {out['path']}", f"{out['md5']!r} is no object", "take back what git has of it")
            raise UserError(_DAMAGED, [problem])
        yield out


def _dvc_files(root: Path) -> Iterator[Path]:
    """As DVC does, not those in an out: there may be 50,000 recordings."""
    for parent, folders, names in os.walk(root):
        files = [Path(parent, name) for name in names if name.endswith(".dvc")]
        yield from files
        read = [content for file in files if "wdir" not in (content := _read(file))]
        outs = {out.get("path") for content in read for out in content.get("outs", [])}
        folders[:] = [name for name in folders if not name.startswith(".") and name not in outs]


def _read(file: Path) -> Mapping[str, Any]:
    """What a file of DVC's says; nothing where it is not there.

    Raises:
        UserError: it is damaged, or git could not merge it.
    """
    if not file.is_file():
        return {}
    content = read_yaml(file, _DAMAGED)
    if content is not None and not isinstance(content, dict):
        raise UserError(_DAMAGED, [Problem(str(file), "is nothing that DVC wrote", "take back what git has of it")])
    return content or {}
