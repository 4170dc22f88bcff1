"""Give a checkout without data/ the starter recordings: a copy of samples/.

Whatever stands at data/ is left alone. So is a checkout whose data.dvc describes other recordings than samples/:
they are the user's own and `dvc pull` brings them back; the starter would silently take their place.
"""

import hashlib
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "samples"
DATA = ROOT / "data"
DATA_DVC = ROOT / "data.dvc"


def starter_files() -> list[Path]:
    return [SAMPLES / "metadata.csv", *sorted((SAMPLES / "wavs").iterdir())]


def dvc_hash(files: list[Path]) -> str:
    """Return what DVC writes into data.dvc as the md5 of a folder with these files."""
    relative = sorted(file.relative_to(SAMPLES).as_posix() for file in files)
    entries = [{"md5": hashlib.md5((SAMPLES / name).read_bytes()).hexdigest(), "relpath": name} for name in relative]
    return hashlib.md5(json.dumps(entries).encode()).hexdigest() + ".dir"


def tracked_hash() -> str | None:
    """Return the md5 of data/ that data.dvc names, None where it names none."""
    if not DATA_DVC.exists():
        return None
    match = re.search(r"\bmd5: (\w+\.dir)\b", DATA_DVC.read_text(encoding="utf-8"))
    return match and match[1]


def main() -> int:
    if DATA.is_symlink() or DATA.exists():
        return 0
    files = starter_files()
    if tracked_hash() not in (None, dvc_hash(files)):
        print("data/ is missing, and data.dvc names recordings of your own: get them with `dvc pull`", file=sys.stderr)
        return 0
    temporary = Path(tempfile.mkdtemp(prefix=".data.", suffix=".tmp", dir=ROOT))
    try:
        for file in files:
            target = temporary / file.relative_to(SAMPLES)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
        temporary.chmod(0o755)  # mkdtemp makes it private
        temporary.rename(DATA)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"data/: {len(files) - 1} starter recordings, copied from samples/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
