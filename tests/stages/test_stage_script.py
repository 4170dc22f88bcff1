"""scripts/stage, as DVC calls it."""

import subprocess
import sys
from pathlib import Path

import pytest
from making.project import copy_files


@pytest.mark.skipif(sys.platform == "win32", reason="there it is stage.cmd")
def test_a_copy_of_the_checkout_runs_its_own_code(tmp_path: Path) -> None:
    """DVC makes one for each experiment of its queue; the environment's package is that of the checkout itself."""
    copy_files(tmp_path, "scripts/stage")
    package = tmp_path / "src" / "xtts_finetune" / "stages"
    package.mkdir(parents=True)
    for folder in package.parent, package:
        (folder / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys; print('its own', sys.argv[1:])")
    done = subprocess.run(
        [tmp_path / "scripts" / "stage", "train", "phase1"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "its own ['train', 'phase1']\n"
