"""DVC's settings of its cache, read where DVC reads them."""

from pathlib import Path

import pytest
from dvc.config import Config

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.dvcio.cache import Cache, configuration_files


@pytest.mark.parametrize("variable", [None, "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"])
def test_it_is_looked_for_where_dvc_does(monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    if variable:
        monkeypatch.setenv(variable, "/somewhere else")
    assert configuration_files() == [Path(Config.get_dir(level), Config.CONFIG) for level in Config.SYSTEM_LEVELS]


@pytest.mark.parametrize("level", ["system", "global", "repo", "local"])
def test_every_level_counts(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, level: str) -> None:
    own = workspace.root / ".dvc"
    own.mkdir()
    assert Cache(workspace).root == own / "cache"
    files = {"repo": own / "config", "local": own / "config.local"}
    for name in ("system", "global"):
        monkeypatch.setenv(f"DVC_{name.upper()}_CONFIG_DIR", str(tmp_path / name))
        files[name] = tmp_path / name / "config"
    files[level].parent.mkdir(exist_ok=True)
    files[level].write_text("[cache]\n    dir = /elsewhere\n    type = hardlink,copy\n")
    cache = Cache(workspace)
    assert (cache.root, cache.link_types) == (Path("/elsewhere"), ("hardlink", "copy"))


@pytest.mark.parametrize(
    "text",
    [
        '[cache]\n    type = "hardlink,symlink"\n',
        "[cache]\n    type = copy\n",
        "[core]\n    analytics = false\n",
        "[Cache]\n    dir = /elsewhere\n    Type = copy\n",
        '[cache]\n    dir = /elsewhere\n    type = "hardlink,symlink"\n',
        "[cache]\n    type = reflink, copy\n",
        "[cache]\n    shared = group\n",
        "['remote \"store\"']\n    url = s3://bucket/path\n[cache]\n",
    ],
)
def test_it_means_what_it_means_to_dvc(workspace: Workspace, text: str) -> None:
    own = workspace.root / ".dvc"
    own.mkdir()
    (own / "config").write_text(text)
    dvc = Config(str(own))["cache"]
    cache = Cache(workspace)
    assert cache.link_types == tuple(dvc.get("type") or ("reflink", "copy"))
    assert cache.root == Path(dvc.get("dir") or own / "cache")


@pytest.mark.parametrize("text", ["[cache]\n    type = magic\n", "[cache\n", "[cache]\n    kind = copy\n"])
def test_what_dvc_refuses_is_refused(workspace: Workspace, text: str) -> None:
    (workspace.root / ".dvc").mkdir()
    (workspace.root / ".dvc" / "config").write_text(text)
    with pytest.raises(UserError, match="configuration cannot be used"):
        Cache(workspace)
