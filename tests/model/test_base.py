"""A base as the stages open it: its own weights, a fine-tune's, and what has become of its files."""

from pathlib import Path

import pytest
import torch
from damage import flip_byte
from safetensors.torch import load_file

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.model import xtts
from xtts_finetune.model.base import Base


def test_a_base_that_changed_after_prepare(workspace: Workspace) -> None:
    base = Base(workspace.prepared / "base", workspace.root)
    base.gpt()
    flip_byte(base.folder / "gpt.safetensors")
    with pytest.raises(UserError, match="is not the file that prepare saw"):
        base.gpt()
    (base.folder / "gpt.safetensors").unlink()
    with pytest.raises(UserError, match="is not there"):
        base.gpt()


def test_a_fine_tune_of_another_size(workspace: Workspace, imported: Workspace, tmp_path: Path) -> None:
    small = workspace.prepared / "base" / "gpt.safetensors"
    with pytest.raises(UserError, match="tensors of another shape") as error:
        Base(imported.prepared / "base", imported.root).gpt(small)
    assert str(small) in str(error.value)


def test_loading_leaves_nothing_of_what_was_in_memory(workspace: Workspace) -> None:
    """The network is not initialised first: every parameter and buffer is the file's, or as Coqui's class makes it."""
    base = Base(workspace.prepared / "base", workspace.root)
    loaded = base.gpt()
    drawn = xtts.build_gpt(base.args, base.tokenizer())
    drawn.load_state_dict(load_file(base.folder / "gpt.safetensors"))
    for kind in ("parameters", "buffers"):
        ours, theirs = (dict(getattr(gpt, f"named_{kind}")()) for gpt in (loaded, drawn))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
