"""XTTS v2's published files, from Hugging Face's hub into a folder: each under its name when it is the right one.

Until then it is `.fetch/NAME.part`, to which a download that was stopped adds what is missing. huggingface_hub's own
downloads begin anew in every process; what is used of it is what asks the hub and reads from it.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xtts_finetune.core.bars import Bar
from xtts_finetune.core.disk import full_disk_raises, shown
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import fsync_path
from xtts_finetune.core.removal import remove, replace
from xtts_finetune.model.published import REPOSITORY, REVISION, SIZES

TITLE = "XTTS v2 was not fetched"
_PARTS = ".fetch"
_BLOCK = 1 << 22  # bytes


def part_of(folder: Path, name: str) -> Path:
    """Where what has come of a file lies."""
    return folder / _PARTS / f"{name}.part"


def fetch(folder: Path, digests: Mapping[str, str]) -> Iterator[str]:
    """Bring files into `folder`, and say of each when it is there.

    Args:
        digests: the SHA-256 of each, by name.

    Raises:
        UserError: the hub cannot be reached, or has or sends other files. What has come of the right ones stays.
        DiskFull: somebody else took the room; what has come stays.
    """
    (folder / _PARTS).mkdir(parents=True, exist_ok=True)
    with _reached(folder, digests):
        _refuse_others(digests)
        problems = []
        for name, digest in digests.items():
            with full_disk_raises():
                _download(name, part_of(folder, name))
            wrong = _wrong(folder, name, digest)
            problems += wrong
            if not wrong:
                replace(part_of(folder, name), folder / name)
                fsync_path(folder)
                yield f"{folder / name}: {shown(SIZES[name])}, as published"
    if problems:
        raise UserError(TITLE, problems)
    remove(folder / _PARTS)


def _address(name: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(REPOSITORY, name, revision=REVISION)


def _refuse_others(names: Mapping[str, str]) -> None:
    """Refuse a hub that has files of another size, before a byte of them is fetched."""
    from huggingface_hub import get_hf_file_metadata

    problems = []
    for name in Bar(names, desc="asking the hub", unit="file", leave=False):
        size = get_hf_file_metadata(_address(name), token=False).size
        if size is not None and size != SIZES[name]:
            what = f"has {size:,} bytes, and the published file {SIZES[name]:,}"
            problems.append(Problem(_address(name), what, "see whether HF_ENDPOINT, or a proxy, leads elsewhere"))
    if problems:
        raise UserError(TITLE, problems)


def _download(name: str, part: Path) -> None:
    """Add to `part` what is missing of it."""
    from huggingface_hub.file_download import http_get

    if part.exists() and part.stat().st_size > SIZES[name]:
        part.unlink()
    with part.open("ab") as file:
        http_get(
            _address(name),
            file,
            resume_size=file.tell(),
            expected_size=SIZES[name],
            displayed_filename=name,
            tqdm_class=Bar,
        )
        file.flush()
        os.fsync(file.fileno())


def _wrong(folder: Path, name: str, wanted: str) -> list[Problem]:
    """What is wrong with what has come of a file; then it is thrown away."""
    part, digest = part_of(folder, name), hashlib.sha256()
    with (
        Bar(total=SIZES[name], unit="B", unit_scale=True, desc=f"checking {name}", leave=False) as bar,
        part.open("rb") as file,
    ):
        while block := file.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() == wanted:
        return []
    part.unlink()
    what = f"sent another file than the published one (SHA-256 {digest.hexdigest()[:12]}…): it was thrown away"
    return [Problem(_address(name), what, f"type this again; or get it elsewhere, and copy it to {folder / name}")]


@contextmanager
def _reached(folder: Path, names: Mapping[str, str]) -> Iterator[None]:
    """Turn what a network does into what can be done about it."""
    import httpx2  # whose errors huggingface_hub passes on
    from huggingface_hub import constants

    try:
        yield
    except (httpx2.HTTPError, ConnectionError) as error:
        what = f"cannot be reached, or does not give what is asked for: {_reason(error)}"
        left = [name for name in names if not (folder / name).is_file()]
        copied = ", ".join(f"{name} ({shown(SIZES[name])})" for name in left)
        remedy = f"type this again with a network: what has come stays. Or copy into {folder}: {copied}"
        raise UserError(TITLE, [Problem(constants.ENDPOINT, what, remedy)]) from error
    except OSError as error:
        if "Consistency check failed" not in str(error):  # huggingface_hub's, of a file that ended too soon
            raise
        what, remedy = str(error).partition("\n")[0], "type this again: it goes on from there"
        raise UserError(TITLE, [Problem(constants.ENDPOINT, what, remedy)]) from error


def _reason(error: Any) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]
