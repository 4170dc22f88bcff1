"""The base `mini`: XTTS v2's classes, small, built from the seed and the recordings alone.

It lets the whole pipeline run for real on a CPU in minutes. Nothing is downloaded: the BPE vocabulary is trained on
the transcripts, the audio codec on the training clips, and the GPT starts from random weights.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from torch.nn import functional as F

from xtts_finetune.core.bars import Bar
from xtts_finetune.core.constants import LANGUAGES
from xtts_finetune.core.layout import CODEC, CONFIG, MEL_STATS, VOCABULARY
from xtts_finetune.model import xtts
from xtts_finetune.model.xtts import VoiceBpeTokenizer

GPT_SHAPE = {"gpt_layers": 4, "gpt_n_model_channels": 256, "gpt_n_heads": 4, "decoder_input_dim": 256}
TEXT_TOKENS = 320
ALPHABET = "abcdefghijklmnopqrstuvwxyz!'(),-./:;?"  # always spelled, whatever the transcripts happen to hold
CODES = 1024
CODEC_SHAPE = {"codes": CODES, "hidden_dim": 64, "resnet_blocks": 1, "codebook_dim": 128}
MAX_CODEC_CLIPS = 1_000  # bounds memory and time, whatever the size of the data set
MAX_CODEC_VECTORS = 100_000
CROP_FRAMES = 128  # 1.5 s
CODEC_BATCH = 16
AUTOENCODER_STEPS = 300
DECODER_STEPS = 150

Waveform = NDArray[np.float32]


def train_vocabulary(texts: Iterable[tuple[str, str]], path: Path) -> None:
    """Train a BPE file for VoiceBpeTokenizer on (text, language) pairs: [STOP]=0 [UNK]=1 [SPACE]=2, as in XTTS v2.

    Texts that cannot be cleaned are left out: `xtts.encode_text` refuses them, saying why.
    """
    cleaner = VoiceBpeTokenizer()
    cleaned = []
    for text, language in texts:
        if language in LANGUAGES:
            with suppress(ValueError):
                cleaned.append(xtts.clean_text(cleaner, text, language))
    alphabet = sorted({*ALPHABET, *"".join(cleaned)} - {" "})
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    special = ["[STOP]", "[UNK]", "[SPACE]", "[START]", *(f"[{language}]" for language in LANGUAGES)]
    trainer = BpeTrainer(vocab_size=TEXT_TOKENS, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(cleaned, trainer)
    path.write_text(tokenizer.to_str(), encoding="utf-8")


def build(folder: Path, waveform: Callable[[int], Waveform], clips: int, seed: int) -> dict[str, object]:
    """Fill `folder`, which holds vocab.json, with the rest of the base.

    Args:
        waveform: gives the training clip of an index below `clips`: (samples,) in [-1, 1] at 22 050 Hz.

    Returns:
        The fields of base.json that only the builder knows: codec shape, reconstruction error.
    """
    chosen = np.random.default_rng(seed).permutation(clips)[:MAX_CODEC_CLIPS]
    raw_mel = xtts.build_codec_mel(None)
    mels = [raw_mel(torch.from_numpy(waveform(int(i)))[None])[0] for i in sorted(chosen)]
    stats = torch.cat(mels, dim=1).abs().mean(1)
    mels = [mel / stats[:, None] for mel in mels]

    torch.manual_seed(seed)
    codec = _Codec(mels, seed)
    codec.train_autoencoder()
    codec.set_codebook()
    error = codec.train_decoder()

    args = xtts.default_args(**GPT_SHAPE)
    torch.manual_seed(seed)
    gpt = xtts.build_gpt(args, xtts.build_tokenizer(folder / VOCABULARY))
    (folder / CONFIG).write_text(json.dumps(xtts.default_config(args), indent=2, sort_keys=True))
    save_file({"mel_stats": stats}, folder / MEL_STATS)
    save_file(codec.dvae.state_dict(), folder / CODEC)
    save_file(gpt.state_dict(), folder / "gpt.safetensors")
    return {"codec": CODEC_SHAPE, "codec_mse": round(error, 4)}


class _Codec:
    """A DVAE trained in three steps: plain autoencoder, k-means codebook, decoder on the frozen codes.

    Training it with its own quantiser collapses to a score of codes; this way nearly all 1024 are used.
    """

    def __init__(self, mels: Sequence[Tensor], seed: int) -> None:
        self.dvae = xtts.build_dvae(**CODEC_SHAPE)
        self.mels = mels
        self.seed = seed
        self.random = np.random.default_rng(seed)

    def train_autoencoder(self) -> None:
        parameters = [*self.dvae.encoder.parameters(), *self.dvae.decoder.parameters()]
        self._minimise(parameters, AUTOENCODER_STEPS, "audio codec", lambda mel: self.dvae.encoder(mel))

    @torch.no_grad()
    def set_codebook(self) -> None:
        """Set the codebook to the k-means centres of the encoder's outputs."""
        vectors = torch.cat([self.dvae.encoder(mel[None])[0].T for mel in self.mels]).numpy()
        if len(vectors) > MAX_CODEC_VECTORS:
            vectors = vectors[self.random.permutation(len(vectors))[:MAX_CODEC_VECTORS]]
        kmeans = MiniBatchKMeans(
            min(CODES, len(vectors)), batch_size=4096, n_init=1, random_state=self.seed % 2**32, reassignment_ratio=0.1
        )
        with threadpool_limits(1):  # its threads add up in any order, and so would not repeat bit for bit
            kmeans.fit(vectors)
        # Fewer vectors than codes (very little audio): a repeated centre is never chosen.
        centres = torch.from_numpy(np.resize(kmeans.cluster_centers_, (CODES, vectors.shape[1])))
        self.dvae.codebook.embed.copy_(centres.T)
        self.dvae.codebook.embed_avg.copy_(centres.T)

    def train_decoder(self) -> float:
        """Tune the decoder on the codes; returns its mean squared error over the last tenth of the steps."""

        @torch.no_grad()
        def quantised(mel: Tensor) -> Tensor:
            codes = xtts.encode_mel(self.dvae, mel)
            embedded: Tensor = self.dvae.codebook.embed_code(codes).transpose(1, 2)
            return embedded

        return self._minimise([*self.dvae.decoder.parameters()], DECODER_STEPS, "codec decoder", quantised)

    def _minimise(
        self, parameters: list[nn.Parameter], steps: int, label: str, encode: Callable[[Tensor], Tensor]
    ) -> float:
        optimiser = torch.optim.AdamW(parameters, lr=1e-3, foreach=True)  # the same sums with fewer calls
        errors: list[float] = []
        self.dvae.train()
        for _ in Bar(range(steps), desc=label, unit="step"):
            mel = self._crops()
            loss = F.mse_loss(self.dvae.decoder(encode(mel)), mel)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            errors.append(loss.item())
        self.dvae.eval()
        return float(np.mean(errors[-max(1, steps // 10) :]))

    def _crops(self) -> Tensor:
        """A random batch of crops (16, 80, 128); shorter clips are repeated to that length."""
        crops = []
        for i in self.random.integers(len(self.mels), size=CODEC_BATCH):
            mel = self.mels[i]
            if mel.shape[1] < CROP_FRAMES:
                mel = mel.repeat(1, -(-CROP_FRAMES // mel.shape[1]))
            start = int(self.random.integers(mel.shape[1] - CROP_FRAMES + 1))
            crops.append(mel[:, start : start + CROP_FRAMES])
        return torch.stack(crops)
