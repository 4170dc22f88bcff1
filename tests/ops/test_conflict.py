"""Commands where git left dvc.lock with the marks of a merge."""

from pathlib import Path

import pytest
from checkouts import Checkout
from making.project import PROJECT

from xtts_finetune.core.files import write_json

LOSSES = {"mel_ce": 4.0, "text_ce": 3.0}
MARKED = "stages:\n<<<<<<< HEAD\n  a: 1\n=======\n  a: 2\n>>>>>>> side\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    for name in ("params.yaml", "dvc.yaml", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    figures = {"step": 1, "start": LOSSES, "eval": LOSSES}
    write_json(tmp_path / "models" / "phase1" / "model.json", {**figures, "sha256": "0" * 64})
    write_json(tmp_path / "reports" / "train_phase1.json", figures)
    return Checkout(tmp_path)


@pytest.mark.parametrize("command", [["status"], ["disk"], ["clean"], ["clean", "--best-only", "--yes"]])
@pytest.mark.parametrize("content", [MARKED, "[]", "5"])
def test_a_damaged_dvc_lock_is_named(checkout: Checkout, command: list[str], content: str) -> None:
    (checkout.root / "dvc.lock").write_text(content)
    said = checkout.run("xtts-finetune", *command, code=2).stderr
    assert "Traceback" not in said
    assert "dvc.lock:2" in said if content == MARKED else "dvc.lock" in said
