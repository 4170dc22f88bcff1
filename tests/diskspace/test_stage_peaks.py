"""What prepare and evaluate need, known before they begin."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from making.params import LORA, starter
from making.prepared import describe_base
from small_disks import SmallDisk

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import PHASES, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.diskspace.budget import SMALL_THINGS, Budget
from xtts_finetune.diskspace.preflight import preflight_evaluate, preflight_prepare
from xtts_finetune.diskspace.stage_peaks import BASE_BYTES, REPORTS, evaluate_peak, prepare_peak
from xtts_finetune.dvcio.cache import Cache

WEIGHTS = 3_000_000


def record(workspace: Workspace, **seconds: float) -> None:
    """Recordings in stereo at 44.1 kHz, and one that is none."""
    wavs = workspace.data / "wavs"
    wavs.mkdir(parents=True)
    for name, length in seconds.items():
        soundfile.write(wavs / f"{name}.flac", np.zeros((round(44_100 * length), 2)), 44_100)
    (wavs / "broken.wav").write_bytes(b"RIFF")
    lines = [f"{name}|Hello there.|Hello there.\n" for name in (*seconds, "broken")]
    (workspace.data / "metadata.csv").write_text("".join(lines), encoding="utf-8")


def export(workspace: Workspace) -> None:
    for phase in PHASES:
        workspace.model(phase).mkdir(parents=True)
        (workspace.model(phase) / "model.safetensors").write_bytes(bytes(WEIGHTS))


def needed(workspace: Workspace, stage: str, params: Params | None = None) -> dict[Path, int]:
    peak = {"prepare": prepare_peak, "evaluate": evaluate_peak}[stage]
    return {demand.disk: demand.needed for demand in peak(Budget(workspace, params or starter(), Cache(workspace)))}


def samples_bytes(params: Params) -> float:
    """Every model says each sentence and what a recording says, which lies beside them."""
    said = 3 * (len(params.evaluate.sentences) + 1) * params.evaluate.max_seconds
    return (said + params.prepare.max_seconds) * 48_000


def test_prepare_keeps_sound_as_16_bit_mono(configured: Workspace) -> None:
    """Of what it will accept: not the broken one, nor one that is longer than max_seconds."""
    record(configured, a=1.0, b=3.0, long=60.0)
    [size] = needed(configured, "prepare").values()
    assert size - BASE_BYTES["mini"] - REPORTS == pytest.approx(4 * 22_050 * 2, rel=0.01)


def test_prepare_is_copied_into_a_cache_without_links(configured: Workspace, other_disk: SmallDisk) -> None:
    record(configured, a=1.0)
    (configured.root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {other_disk.root / 'cache'}\n")
    by_disk = needed(configured, "prepare")
    assert by_disk.pop(other_disk.root) == next(iter(by_disk.values())) - REPORTS


def test_evaluate_copies_weights_only_where_links_are_impossible(configured: Workspace, other_disk: SmallDisk) -> None:
    export(configured)
    assert list(needed(configured, "evaluate").values()) == [SMALL_THINGS + samples_bytes(starter())]
    (configured.root / "mlruns").symlink_to(other_disk.root)
    assert needed(configured, "evaluate")[other_disk.root] == WEIGHTS


def test_evaluate_puts_weights_together_where_parts_were_frozen(configured: Workspace, other_disk: SmallDisk) -> None:
    export(configured)
    describe_base(configured, parameters=2_000_000, base="mini")
    [before] = needed(configured, "evaluate").values()
    params = starter(phases=["phase1"], **LORA)
    [more] = needed(configured, "evaluate", params).values()
    assert more == before + 8_000_000
    alone = params.model_copy(update={"registry": params.registry.model_copy(update={"weights": "trained"})})
    [same] = needed(configured, "evaluate", alone).values()
    assert same == before
    (configured.root / "mlruns").symlink_to(other_disk.root)
    assert needed(configured, "evaluate", params)[other_disk.root] == 8_000_000


@pytest.mark.parametrize("uri", [None, "http://127.0.0.1:5000"])
def test_without_links_they_lie_there_twice(
    configured: Workspace, uri: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are put together and where they wait; MLflow's own copy comes when the first is gone."""
    export(configured)
    describe_base(configured, parameters=2_000_000, base="mini")
    params = starter(phases=["phase1"], uri=uri, **LORA)
    [once] = needed(configured, "evaluate", params).values()
    for module in ("budget", "stage_peaks"):
        monkeypatch.setattr(f"xtts_finetune.diskspace.{module}.can_link", lambda source, target: False)
    [twice] = needed(configured, "evaluate", params).values()
    assert twice == once + 8_000_000


@pytest.mark.parametrize("stage", ["prepare", "evaluate"])
def test_what_does_not_fit_is_refused_with_the_sum(
    configured: Workspace, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(configured, a=1.0)
    export(configured)
    check = {"prepare": preflight_prepare, "evaluate": preflight_evaluate}[stage]
    check(configured, starter())
    monkeypatch.setattr("xtts_finetune.diskspace.budget.free_bytes", lambda path: 5_000_000)
    with pytest.raises(UserError, match=f"{stage} does not fit on the disk") as refused:
        check(configured, starter())
    said = [" ".join(line.split()) for line in str(refused.value).splitlines()]
    assert "free 5 MB" in said
    assert any(line.startswith("missing ") for line in said)
    assert said[-1].endswith("xtts-finetune disk shows what else lies there")
