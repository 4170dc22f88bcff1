"""scripts/stage, as DVC calls it."""

import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import Checkout
from making.project import copy_files

from xtts_finetune.core.errors import EXIT_USER


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


def test_a_copy_that_is_not_known_as_one_is_refused(fresh: Checkout) -> None:
    """As where .dvc/tmp is a link to another disk: what it saved, and its runs in MLflow, would be deleted with it."""
    environment = {**fresh.environment, "DVC_EXP_NAME": "tipsy-lamb", "DVC_ROOT": str(fresh.root.parent)}
    command = [sys.executable, "-m", "xtts_finetune.stages", "train", "phase1"]
    done = subprocess.run(command, cwd=fresh.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_USER
    assert "this experiment would be lost" in done.stderr
