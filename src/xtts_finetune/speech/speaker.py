"""Speech from a fine-tuned model: text → audio codes → waveform."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torchaudio.transforms import GriffinLim, InverseMelScale
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper

from xtts_finetune.core.constants import CODE_STRIDE, SAMPLE_RATE
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.layout import BUNDLE_BASE, REFERENCE, SETTINGS, VOCODER, WEIGHTS
from xtts_finetune.core.params import EvaluateParams
from xtts_finetune.data.batches import torch_seed
from xtts_finetune.model import xtts
from xtts_finetune.model.base import Base, load_state
from xtts_finetune.model.device import pick_device
from xtts_finetune.model.xtts import GPT, VoiceBpeTokenizer

SERVING_CODE = Path(__file__).with_name("serving.py")  # a Speaker as MLflow's pyfunc
PROMPT_SECONDS = 6  # a chunk of the reference; gpt_cond_chunk_len's default in Xtts.get_conditioning_latents
MIN_PROMPT_SECONDS = 0.33  # Xtts.get_gpt_cond_latents
SPEAKER_RATE = 16_000  # Hz, of the vocoder's speaker encoder

TOP_K = 50
PARTS = 2**40  # of a probability of 1

Waveform = NDArray[np.float32]


class Speaker:
    """A model that speaks in the voice of a reference recording."""

    def __init__(
        self, gpt: GPT, base: Base, reference: Path, settings: EvaluateParams, device: torch.device | None = None
    ) -> None:
        """`gpt` is changed for generation: don't train it afterwards.

        Args:
            reference: a WAV at 22 050 Hz.
            device: None: the GPU if there is one, else the CPU.
        """
        self.settings = settings
        self.tokenizer = base.tokenizer()
        self.gpt = gpt.eval().to(device or pick_device())
        self.gpt.init_gpt_for_inference(kv_cache=True)
        wanted = max(1, int(settings.max_seconds * SAMPLE_RATE / CODE_STRIDE))
        self.gpt.max_gen_mel_tokens = min(self.gpt.max_gen_mel_tokens, wanted)
        voice = soundfile.read(reference, dtype="float32")[0]
        self.prompt = self._prompt(torch.from_numpy(voice), base.mel_stats())
        self.vocoder = _HifiGan(base, voice) if base.info["vocoder"] == "hifigan" else _GriffinLim(base)

    @torch.inference_mode()
    def speak(self, text: str, language: str) -> tuple[Waveform, int]:
        """(samples,) in [-1, 1] and their rate in Hz; the same text gives the same waveform.

        Raises:
            ValueError: the language is unknown, the vocabulary lacks a character of `text`, or it is too long.
        """
        torch.manual_seed(torch_seed("speak", text))
        encoded = xtts.encode_text(self.tokenizer, text, language)
        if len(encoded) > (most := self.gpt.max_text_tokens - 2):  # it counts start and stop too
            raise ValueError(f"the text has {len(encoded)} tokens, the model holds {most}")
        tokens = torch.tensor([encoded], device=self.prompt.device)
        codes = self.gpt.generate(
            cond_latents=self.prompt,
            text_inputs=tokens,
            do_sample=True,
            temperature=1.0,  # as of here, the settings come by the processors below
            top_p=1.0,
            top_k=0,
            repetition_penalty=self.settings.repetition_penalty,
            num_beams=1,
            logits_processor=LogitsProcessorList(self._sampling()),
        )
        codes = codes[:, : int((codes[0] < self.gpt.start_audio_token).long().cumprod(0).sum())]
        if codes.shape[1] == 0:  # the model said nothing
            return np.zeros(self.vocoder.rate // 10, dtype=np.float32), self.vocoder.rate
        sound = self.vocoder(codes, self._latents(tokens, codes)).float().cpu().numpy().reshape(-1)
        return np.clip(sound, -1, 1), self.vocoder.rate

    def _sampling(self) -> list[LogitsProcessor]:
        """Of transformers' own, but for the last, and in its order."""
        temperature, top_p = self.settings.temperature, self.settings.top_p
        always: list[LogitsProcessor] = [TemperatureLogitsWarper(temperature), TopKLogitsWarper(TOP_K)]
        return [*always, _TopP(top_p)] if top_p < 1 else always

    def _latents(self, tokens: Tensor, codes: Tensor) -> Tensor:
        """(1, codes, model_dim) hidden states that XTTS v2's vocoder reads (Xtts.inference)."""
        text_length = torch.tensor([tokens.shape[1]], device=tokens.device)
        samples = torch.tensor([codes.shape[1] * CODE_STRIDE], device=tokens.device)
        latents: Tensor = self.gpt(tokens, text_length, codes, samples, cond_latents=self.prompt, return_latent=True)
        return latents

    @torch.inference_mode()
    def _prompt(self, voice: Tensor, mel_stats: Tensor) -> Tensor:
        """(1, 32, model_dim) conditioning latents, the mean over chunks of the reference."""
        mel = xtts.build_conditioning_mel(mel_stats)
        chunks = [c for c in voice.split(PROMPT_SECONDS * SAMPLE_RATE) if len(c) >= MIN_PROMPT_SECONDS * SAMPLE_RATE]
        device = self.gpt.mel_head.weight.device
        styles = [self.gpt.get_style_emb(mel(chunk[None].to(device))) for chunk in chunks]
        return torch.stack(styles).mean(0).transpose(1, 2)


class _TopP(LogitsProcessor):
    """The likeliest codes whose probabilities add up to `top_p` (Holtzman et al. 2020, nucleus sampling).

    Transformers' own adds them up in floats, which CUDA refuses where results must repeat: here in whole numbers.
    """

    def __init__(self, top_p: float) -> None:
        self._top_p = top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ranked, places = scores.sort(descending=True)
        shares = (ranked.softmax(-1) * PARTS).long()
        enough = max(1, int(self._top_p * PARTS))
        left_out = shares.cumsum(-1) - shares >= enough  # what lies before it is; never so of the first
        return scores.masked_fill(left_out.scatter(-1, places, left_out), -math.inf)


class _GriffinLim:
    """Codes → DVAE's mel → phase by Griffin and Lim (1984): the vocoder of `mini`."""

    rate = SAMPLE_RATE

    def __init__(self, base: Base) -> None:
        self.dvae = base.codec()
        self.mel_stats = base.mel_stats()
        self.linear = InverseMelScale(
            n_stft=513, n_mels=xtts.MEL_CHANNELS, sample_rate=SAMPLE_RATE, f_min=0, f_max=8000, norm="slaney"
        )
        self.phase = GriffinLim(n_fft=1024, hop_length=256, power=2, rand_init=False)

    def __call__(self, codes: Tensor, latents: Tensor) -> Tensor:
        mel = self.dvae.decode(codes.cpu())[0] * self.mel_stats[:, None]
        sound: Tensor = self.phase(self.linear(mel.exp()))
        return sound


class _HifiGan:
    """Latents → waveform at 24 kHz in the reference's voice: XTTS v2's vocoder."""

    rate = 24_000

    def __init__(self, base: Base, voice: Waveform) -> None:
        self.decoder = xtts.build_vocoder(base.args).eval()
        file = base.folder / VOCODER
        load_state(self.decoder, load_file(file), file)
        spoken = torch.from_numpy(soxr.resample(voice, SAMPLE_RATE, SPEAKER_RATE))
        with torch.inference_mode():
            self.speaker = self.decoder.speaker_encoder.forward(spoken[None], l2_norm=True).unsqueeze(-1)

    def __call__(self, codes: Tensor, latents: Tensor) -> Tensor:
        sound: Tensor = self.decoder(latents.cpu(), g=self.speaker)
        return sound


def unspeakable(reasons: Mapping[int, ValueError]) -> UserError:
    """The refusal of sentences of params.yaml: what is wrong with each, by its number from 0."""
    remedy = (
        "change the sentence; or where the vocabulary lacks a character, add it: a file in data/ that names it, and "
    )
    remedy += "vocabulary.extend: that file's name (auto adds what the transcripts need)"
    problems = [
        Problem(f"params.yaml: evaluate.sentences.{number}", str(reason), remedy) for number, reason in reasons.items()
    ]
    return UserError("sentences cannot be spoken", problems)


def refuse_unspeakable(sentences: Sequence[str], language: str, tokenizer: VoiceBpeTokenizer) -> None:
    """Refuse what evaluate could not speak after hours of training.

    Raises:
        UserError: the vocabulary cannot spell a sentence.
    """
    reasons: dict[int, ValueError] = {}
    for number, sentence in enumerate(sentences):
        try:
            xtts.encode_text(tokenizer, sentence, language)
        except ValueError as error:
            reasons[number] = error
    if reasons:
        raise unspeakable(reasons)


def load_speaker(folder: Path, is_tuned: bool = True) -> Speaker:
    """The speaker in a model folder, as registered: weights, base/, reference.wav, settings.

    All is there but, where it was registered so, the weights beside which these were trained: they are looked for where
    params.yaml had them, as seen from the folder that this runs in.

    Args:
        is_tuned: False: with the base's own weights, which are looked for in the same place: zero-shot, in its voice.

    Raises:
        UserError: they are not there.
    """
    base = Base(folder / BUNDLE_BASE, Path.cwd())
    settings = EvaluateParams.model_validate_json((folder / SETTINGS).read_text(encoding="utf-8"))
    return Speaker(base.gpt(folder / WEIGHTS if is_tuned else None), base, folder / REFERENCE, settings)
