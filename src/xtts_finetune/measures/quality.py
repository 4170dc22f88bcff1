"""How good people would say it sounds: DistillMOS."""

import io
from contextlib import redirect_stdout

from xtts_finetune.measures.sound import Sound


class Quality:
    """Mean opinion score from 1 (bad) to 5 (excellent), as predicted (Stahl and Gamper 2025, Distill-MOS)."""

    def __init__(self) -> None:
        from distillmos import ConvTransformerSQAModel

        with redirect_stdout(io.StringIO()):  # it says where its weights came from
            self._model = ConvTransformerSQAModel().eval()

    def __call__(self, sound: Sound) -> float:
        import torch

        with torch.inference_mode():
            return float(self._model(torch.from_numpy(sound.samples)[None]).item())
