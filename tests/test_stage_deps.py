"""dvc.yaml names what a stage's result depends on: all that its named sources import, but for what is said here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from making.project import PROJECT

PACKAGE = "xtts_finetune"
SOURCES = PROJECT / "src"
# What changes no result, though it is used: how files are written, named and found, and errors said; that parameters
# are taken, whose values DVC compares itself; MLflow and DVC. Of this also what only refuses.
FOR_ALL = (
    *("core/commands.py", "core/disk.py", "core/errors.py", "core/files.py", "core/layout.py", "core/quiet.py"),
    *("core/bars.py", "core/deadline.py", "core/processes.py", "core/removal.py"),
    *("core/params.py", "core/phase_params.py", "checkpoints", "tracking", "dvcio"),
)
BESIDE = {
    "prepare": (
        *("core/params_mistakes.py", "core/yamlfile.py", "core/yaml_of_dvc.py"),
        "model/misfit.py",
        "model/published.py",
        "model/trained.py",
        "speech/speaker.py",
        "stages/figures.py",
    ),
    "train": (
        *(
            "core/digests.py",
            "core/meeting_place.py",
            "model/misfit.py",
            "training/interrupts.py",
            "training/saving.py",
        ),
        *("data/checks.py", "data/clips.py"),  # of which a phase uses the types: what they do is in prepared/
    ),
    # phase1 names the run above; the others are of a version's cards, which are none of its outs
    "evaluate": ("core/digests.py", "stages/phase1.py", "training/phases.py", "cards", "stages/papers.py"),
}


def sources(dep: str) -> list[Path]:
    path = PROJECT / dep
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def imported(file: Path) -> Iterator[str]:
    """What of ours a file imports, relative to the package; types alone aside."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in types:
            for module in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                path = SOURCES / (module.replace(".", "/") + ".py")
                if module.startswith(PACKAGE) and path.exists():
                    yield path.relative_to(SOURCES / PACKAGE).as_posix()


@pytest.mark.parametrize("stage", ["prepare", "train_phase1", "train_phase2", "evaluate"])
def test_what_a_stage_uses_is_among_its_deps(stage: str) -> None:
    deps = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["deps"]
    files = [file for dep in deps if dep.startswith("src/") for file in sources(dep)]
    named = {file.relative_to(SOURCES / PACKAGE).as_posix() for file in files}
    beside = (*FOR_ALL, *BESIDE[stage.partition("_")[0]])
    lacking = {
        f"{used}, which {file.name} imports"
        for file in files
        for used in imported(file)
        if used not in named and not any(used == name or used.startswith(f"{name}/") for name in beside)
    }
    assert not lacking
