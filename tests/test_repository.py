"""What the repository must not say: whose packages, whose folders; and that its table of faults is proved."""

import re
import subprocess

import pytest
from making.project import PROJECT

IGNORE_FILES = {".gitignore", ".dvcignore"}  # where /work/ means the checkout's own
ADDRESSES = {
    "a package index": r"https?://[^\s\"']*(?:pypi|pythonhosted|/simple\b)|--(?:extra-)?index-url|--find-links",
    "a folder of one machine": r"(?<![\w.}*/])/(?:work|root|home|Users)/",
}


def tracked_texts() -> dict[str, str]:
    """What a clone has of readable files, and what would be added to them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    texts = {}
    for name in filter(None, listed.stdout.split("\0")):
        content = (PROJECT / name).read_bytes() if (PROJECT / name).is_file() else b""
        if b"\0" not in content and name != "tests/test_repository.py":
            texts[name] = content.decode("utf-8")
    return texts


@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="not a git checkout")
@pytest.mark.parametrize("what", ADDRESSES)
def test_no_file_names(what: str) -> None:
    texts = tracked_texts()
    assert "requirements.lock" in texts
    offenders = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts.items()
        if name not in IGNORE_FILES
        for number, line in enumerate(text.splitlines(), start=1)
        if re.search(ADDRESSES[what], line)
    ]
    assert offenders == []


def test_every_fault_in_the_table_has_its_test() -> None:
    rows = re.findall(
        r"^\| .* \| `(\w+)` \|$", (PROJECT / "docs" / "faults.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    sources = [file.read_text(encoding="utf-8") for file in (PROJECT / "tests").rglob("test_*.py")]
    tests = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    assert len(rows) > 20
    assert set(rows) <= tests
