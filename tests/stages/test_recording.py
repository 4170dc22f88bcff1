"""The recording that base and phases say, too."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from xtts_finetune.core.constants import SAMPLE_RATE
from xtts_finetune.core.layout import Workspace
from xtts_finetune.data.clips import Clip
from xtts_finetune.data.features import FeatureWriter, code_count
from xtts_finetune.stages.recording import recorded_clip, write_recording


@pytest.fixture
def prepared(workspace: Workspace) -> Workspace:
    """With an eval split of 3, 6 and 9 seconds."""
    workspace.prepared.mkdir()
    with FeatureWriter(workspace.prepared, "eval") as writer:
        for seconds in 3, 6, 9:
            audio = np.full(seconds * SAMPLE_RATE, seconds / 10, np.float32)
            clip = Clip(f"clip{seconds}", Path("x.wav"), f'It takes {seconds}, "exactly".', "en", "anna", 1)
            writer.add(clip, audio, np.zeros(code_count(len(audio)), np.int64), np.zeros(5, np.int64))
    return workspace


@pytest.mark.parametrize(("max_seconds", "chosen"), [(20, "clip9"), (8, "clip6"), (7, "clip3"), (1, "clip3")])
def test_it_is_one_that_a_model_can_say_whole(prepared: Workspace, max_seconds: float, chosen: str) -> None:
    assert recorded_clip(prepared, max_seconds).entry.id == chosen


def test_its_sound_lies_beside_a_table_of_what_is_said(prepared: Workspace, tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    samples.mkdir()
    write_recording(samples, ["Hello, you!"], recorded_clip(prepared, 8))
    sound, rate = soundfile.read(samples / "recording" / "clip.wav")
    assert (len(sound), rate) == (6 * SAMPLE_RATE, SAMPLE_RATE)
    assert sound == pytest.approx(0.6, abs=1e-3)
    table = (samples / "sentences.csv").read_text(encoding="utf-8")
    assert table == 'file,text\n1.wav,"Hello, you!"\nclip.wav,"It takes 6, ""exactly""."\n'
