"""Numbers of XTTS v2 and of its loss. dvc.yaml names this file: to change one is to train something else."""

from typing import Literal, get_args

SAMPLE_RATE = 22_050  # Hz; XTTS v2's GPT and DVAE both work at this rate
CODE_STRIDE = 1_024  # samples per audio code (GPT.code_stride_len)
TEXT_WEIGHT = 0.01  # of Text CE in the loss (GPTArgs.gpt_loss_text_ce_weight); Coqui prints it so weighted
MEL_WEIGHT = 1.0  # of Mel CE in the loss (GPTArgs.gpt_loss_mel_ce_weight)
MAX_AUDIO_CODES = 605  # gpt_max_audio_tokens of XTTS v2
MAX_TEXT_TOKENS = 402  # gpt_max_text_tokens of XTTS v2
Language = Literal[
    "en", "es", "fr", "de", "it", "pt", "pl", "tr", "ru", "nl", "cs", "ar", "zh-cn", "hu", "ko", "ja", "hi"
]  # fmt: skip
LANGUAGES: tuple[Language, ...] = get_args(Language)
