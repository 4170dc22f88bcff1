"""Real networks, small, made once a session for the tests of model/, speech/ and training/.

What takes seconds to import is imported where it is used: tests of other rooms load this file, too.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from making import workspaces
from making.params import make_params
from making.recordings import sample_clips

from xtts_finetune.core.constants import SAMPLE_RATE
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
        patch.setattr(batches, "CONDITIONING_STEP", SAMPLE_RATE // 8)
        patch.setattr(batches, "CONDITIONING_MIN", SAMPLE_RATE // 2)
        patch.setattr(batches, "CONDITIONING_MAX", SAMPLE_RATE)
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A tiny workspace, to be read or copied."""
    return workspaces.tiny(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="module")
def uninterrupted(short_prompts: None, template: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of phase 1 trained in one go."""
    from workbench import outcome, train

    root = tmp_path_factory.mktemp("whole") / "workspace"
    shutil.copytree(template.root, root)
    train(Workspace(root), make_params())
    return outcome(Workspace(root))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """Five real recordings with their texts, from the longest to the shortest."""
    return sample_clips(tmp_path_factory.mktemp("clips") / "wavs", 5)


@pytest.fixture(scope="session")
def published(clips: list[tuple[Path, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the published shape: don't write to its files."""
    from making.bases import write_published

    folder = write_published(tmp_path_factory.mktemp("workspace") / "base" / "small", [path for path, _ in clips])
    yield folder
    shutil.rmtree(folder)  # half a gigabyte, of which pytest would keep three


@pytest.fixture(scope="session")
def imported(published: Path) -> Iterator[Workspace]:
    """A workspace whose prepared/base was imported from `published`."""
    workspace = workspaces.imported(published)
    yield workspace
    shutil.rmtree(workspace.prepared)
