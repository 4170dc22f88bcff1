"""Layers: an import goes down only, and what is slow to load stays where it is needed."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkouts import Checkout
from making.project import PROJECT

PACKAGE = "xtts_finetune"
SOURCES = PROJECT / "src" / PACKAGE
# room → the rooms it may use, besides itself; a line only names rooms of the lines below it
BELOW = {
    "cli": {"commands", "stages", "report", "core"},
    "commands": {"stages", "ops", "report", "export", "promotion", "replay", "planning", "core"},
    "replay": {"stages", "promotion", "training", "diskspace", "tracking", "dvcio", "model", "checkpoints", "core"},
    "stages": {
        "planning",
        "report",
        "training",
        "diskspace",
        "cards",
        "tracking",
        "speech",
        "dvcio",
        "model",
        "data",
        "checkpoints",
        "core",
    },
    "ops": {"diskspace", "tracking", "dvcio", "data", "checkpoints", "core"},
    "export": {"diskspace", "cards", "tracking", "speech", "model", "checkpoints", "core"},
    "promotion": {
        "training",
        "diskspace",
        "tracking",
        "measures",
        "speech",
        "dvcio",
        "model",
        "data",
        "checkpoints",
        "core",
    },
    "planning": {"training", "diskspace", "tracking", "dvcio", "model", "data", "checkpoints", "core"},
    "report": {"diskspace", "tracking", "dvcio", "checkpoints", "trend", "core"},
    "training": {"tracking", "model", "data", "checkpoints", "core"},
    "diskspace": {"tracking", "dvcio", "data", "checkpoints", "core"},
    "cards": {"tracking", "dvcio", "model", "data", "checkpoints", "core"},
    "tracking": {"core"},
    "speech": {"model", "data", "core"},
    "measures": {"data", "core"},
    "dvcio": {"checkpoints", "core"},
    "model": {"core"},
    "data": {"core"},
    "checkpoints": {"trend", "core"},
    "trend": set[str](),
    "core": set[str](),
}
NETWORKS = {"torch", "torchaudio", "torchcodec", "TTS", "transformers", "trainer"}  # ten seconds to load
SLOW = NETWORKS | {"mlflow", "dvc", "matplotlib", "sklearn", "pandas", "mlcroissant"}
SLOW |= {"altair", "vl_convert", "rich", "jinja2"}
# MLflow copies this file beside the weights and runs it there: it is no part of the layer it lies in.
SERVED = "speech/serving.py"


@dataclass(frozen=True)
class Import:
    """One imported module, as a source file names it."""

    file: str  # relative to the package
    module: str  # absolute
    place: str  # "top", "function" or "types" (under TYPE_CHECKING)

    @property
    def layer(self) -> str:
        return self.file.split("/")[0].removesuffix(".py")

    @property
    def used_layer(self) -> str | None:
        """The layer of ours that is imported; None for a library."""
        package, _, rest = self.module.partition(".")
        return rest.partition(".")[0] if package == PACKAGE else None

    @property
    def library(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file} imports {self.module}"


def imports_of(file: Path) -> Iterator[Import]:
    name = file.relative_to(SOURCES).as_posix()

    def walk(node: ast.AST, place: str) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(name, alias.name, place) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name}:{node.lineno}: write absolute imports"
            if node.module == PACKAGE:  # from xtts_finetune import data
                yield from (Import(name, f"{PACKAGE}.{alias.name}", place) for alias in node.names)
            else:
                yield Import(name, node.module, place)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            place = "function"
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            place = "types"
        for child in ast.iter_child_nodes(node):
            yield from walk(child, place)

    yield from walk(ast.parse(file.read_text(encoding="utf-8")), "top")


IMPORTS = [each for file in sorted(SOURCES.rglob("*.py")) for each in imports_of(file)]


def offenders(imports: Iterator[Import]) -> list[str]:
    return [str(each) for each in imports if each.file != SERVED]


def test_every_source_belongs_to_a_layer() -> None:
    layers = {file.relative_to(SOURCES).parts[0].removesuffix(".py") for file in SOURCES.rglob("*.py")}
    assert layers - {"__init__"} == set(BELOW)
    assert len(IMPORTS) > 200


def test_an_import_goes_down_only() -> None:
    ours = (each for each in IMPORTS if each.used_layer)
    allowed_in_functions = {"ops": {"speech", "model"}}  # to let one speak, or to fetch one

    def forbidden(each: Import) -> bool:
        allowed = BELOW[each.layer] | {each.layer}
        if each.place == "function":
            allowed = allowed | allowed_in_functions.get(each.layer, set())
        return each.used_layer not in allowed

    assert offenders(each for each in ours if forbidden(each)) == []


def test_the_served_file_is_the_only_exception() -> None:
    """It loads its own room when MLflow serves the model, and nobody imports it."""
    assert {each.used_layer for each in IMPORTS if each.file == SERVED} == {None, "speech"}
    assert all(each.place == "function" for each in IMPORTS if each.file == SERVED and each.used_layer)
    assert [str(each) for each in IMPORTS if each.module == f"{PACKAGE}.speech.serving"] == []


def test_one_module_imports_tts() -> None:
    assert {each.file for each in IMPORTS if each.library == "TTS"} == {"model/xtts.py"}


def test_networks_are_known_where_models_are() -> None:
    with_networks = {"stages", "export", "promotion", "replay", "planning", "training", "speech", "measures", "model"}
    without = set(BELOW) - with_networks
    wrong = (each for each in IMPORTS if each.layer in without and each.library in NETWORKS)
    assert offenders(wrong) == []


def test_core_stands_on_the_standard_library_psutil_pydantic_tqdm_and_yaml_parsers() -> None:
    allowed = sys.stdlib_module_names | {"psutil", "pydantic", "ruamel", "tqdm", "yaml", PACKAGE}
    assert offenders(each for each in IMPORTS if each.layer == "core" and each.library not in allowed) == []


def test_all_else_loads_slow_libraries_when_it_uses_them() -> None:
    slow = {"stages", "export", "promotion", "replay", "planning", "training", "speech", "model", "data"}
    quick = set(BELOW) - slow
    wrong = (each for each in IMPORTS if each.layer in quick and each.place == "top" and each.library in SLOW)
    assert offenders(wrong) == []


def test_commands_import_their_work_inside() -> None:
    tops = {each.used_layer for each in IMPORTS if each.layer in ("cli", "commands") and each.place == "top"}
    assert tops == {None, "core"}


@pytest.mark.parametrize("arguments", [["--help"], ["status"], ["disk"]])
def test_the_console_script_answers_without_loading_anything_slow(finished: Checkout, arguments: list[str]) -> None:
    shown = finished.run("env", "PYTHONPROFILEIMPORTTIME=1", "xtts-finetune", *arguments)
    loaded = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines() if line.startswith("import time:")}
    assert f"{PACKAGE}.cli" in loaded
    assert {name.partition(".")[0] for name in loaded} & (SLOW - {"dvc"}) == set()
    assert "dvc.repo" not in loaded  # its configuration, of status and disk, is a fifth of a second
    unneeded = {"ruamel.yaml", "ssl", "http.client", "psutil", "filelock", "numpy", "typer"}
    # each a twentieth of status's time
    assert loaded & unneeded == ({"typer"} if arguments != ["status"] else set())
