"""Fixtures of the tests of model/, speech/ and training/: real networks, small.

What takes seconds to import is imported where it is used: tests of other rooms load this file, too.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.data import batches


@pytest.fixture(scope="session")
def deterministic() -> Iterator[None]:
    """As in the stages; on one thread, which is faster for models this small."""
    import torch

    from xtts_finetune.model.device import make_deterministic

    threads = torch.get_num_threads()
    make_deterministic()
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def short_prompts() -> Iterator[None]:
    """Conditioning slices of a second: encoding six takes most of the time of a tiny model's step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "CONDITIONING_MIN", SAMPLE_RATE // 2)
        patch.setattr(batches, "CONDITIONING_MAX", SAMPLE_RATE)
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    from workbench import make_workspace

    return make_workspace(tmp_path_factory.mktemp("template"))


@pytest.fixture
def workspace(template: Workspace, tmp_path: Path) -> Workspace:
    """A workspace of the test's own, ready to be trained in."""
    shutil.copytree(template.root, tmp_path / "my vöice")
    return Workspace(tmp_path / "my vöice")


@pytest.fixture(scope="module")
def uninterrupted(short_prompts: None, template: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of phase 1 trained in one go."""
    from workbench import make_params, outcome, train

    root = tmp_path_factory.mktemp("whole") / "workspace"
    shutil.copytree(template.root, root)
    train(Workspace(root), make_params())
    return outcome(Workspace(root))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """Five real recordings with their texts, from the longest to the shortest."""
    from workbench import sample_clips

    return sample_clips(tmp_path_factory.mktemp("clips") / "wavs", 5)


@pytest.fixture(scope="session")
def published(clips: list[tuple[Path, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the published shape: don't write to its files."""
    from workbench import make_published

    folder = make_published(tmp_path_factory.mktemp("workspace") / "base" / "small", [path for path, _ in clips])
    yield folder
    shutil.rmtree(folder)  # half a gigabyte, of which pytest would keep three


@pytest.fixture(scope="session")
def imported(published: Path) -> Iterator[Workspace]:
    """A workspace whose prepared/base was imported from `published`."""
    from xtts_finetune.model.base import import_published

    workspace = Workspace(published.parents[1])
    folder = workspace.prepared / "base"
    folder.mkdir(parents=True)
    write_json(folder / "base.json", import_published(published, folder, workspace.root, pinned=False))
    yield workspace
    shutil.rmtree(workspace.prepared)
