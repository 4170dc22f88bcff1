"""`python -m xtts_finetune.stages.speaking PHASE STEP WEIGHTS`: a copy of a phase in training says its sentences.

`stages.samples` starts it, with the run's parameters as a line of JSON on its stdin, which ends when the trainer does.
"""

import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import psutil

from xtts_finetune.core.errors import exit_code_of
from xtts_finetune.core.files import published_folder, temporary_for
from xtts_finetune.core.layout import REFERENCE, SAMPLES, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.core.processes import cores
from xtts_finetune.report.pages import write_pages

if TYPE_CHECKING:
    from xtts_finetune.speech.speaker import Speaker  # loads torch


def main() -> None:
    """Write `Workspace.spoken`, and the report's pages, which play it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which ends this process
    if sys.platform != "win32":
        _come_last()
    params = Params.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_trainer, daemon=True).start()
    phase, step, weights = cast("PhaseName", sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    workspace = Workspace.here()
    speaker = _speaker(workspace, params, weights)
    if sys.platform == "win32":  # not before: what it reads, nobody can delete there
        _come_last()
    _speak(speaker, params, workspace.spoken(phase, step))
    write_pages(workspace, is_stage=True)


def _speaker(workspace: Workspace, params: Params, weights: Path) -> "Speaker":
    import torch

    from xtts_finetune.model.base import Base
    from xtts_finetune.model.device import make_deterministic
    from xtts_finetune.speech.speaker import Speaker

    torch.set_num_threads(max(1, cores() // 2))
    make_deterministic()
    base = Base.prepared(workspace)
    gpt = base.gpt(weights)
    if temporary_for(weights.parent) == f"{SAMPLES}.read":  # a name that they have for this alone
        weights.unlink()
    return Speaker(gpt, base, workspace.prepared / REFERENCE, params.evaluate, torch.device("cpu"))


def _speak(speaker: "Speaker", params: Params, place: Path) -> None:
    from xtts_finetune.data.audio import write_wav
    from xtts_finetune.stages.recording import write_sentences

    with published_folder(place) as folder:
        for number, sentence in enumerate(params.evaluate.sentences, 1):
            write_wav(folder / f"{number}.wav", *speaker.speak(sentence, params.prepare.language))
        write_sentences(folder, params.evaluate.sentences)


def _come_last() -> None:
    """Let the trainer, and all others, have what there is too little of."""
    psutil.Process().nice(psutil.IDLE_PRIORITY_CLASS if sys.platform == "win32" else 19)
    if sys.platform == "linux":  # where memory runs out, this process is the one to go
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _end_with_the_trainer() -> None:
    """Its end of the pipe closes, whatever ends it."""
    os.read(sys.stdin.fileno(), 1)  # not by sys.stdin, whose lock Python wants when it ends
    os._exit(1)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
