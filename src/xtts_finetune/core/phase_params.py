"""One phase of params.yaml: how it trains, and what."""

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
# The parts of XTTS's GPT (TTS/tts/layers/xtts/gpt.py), as its weights are named; of gpt also single layers: gpt.h.29.
GPT_PARTS = (
    "conditioning_encoder",
    "conditioning_perceiver",
    "text_embedding",
    "text_pos_embedding",
    "mel_embedding",
    "mel_pos_embedding",
    "gpt",
    "final_norm",
    "text_head",
    "mel_head",
)


def _as_a_part(name: str) -> str:
    if not re.fullmatch(rf"{'|'.join(GPT_PARTS)}|gpt\.h\.\d{{1,4}}(\.(attn|mlp))?", name):
        raise ValueError(f"is no part of the network; there are gpt.h.0, gpt.h.1, … and {', '.join(GPT_PARTS)}")
    return name


def _unlike(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("names one twice")
    return names


Part = Annotated[str, AfterValidator(_as_a_part)]
Parts = Annotated[list[Part], AfterValidator(_unlike)]
Layers = Annotated[list[Literal["c_attn", "c_proj", "c_fc"]], Field(min_length=1), AfterValidator(_unlike)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Adapters(Strict):
    """Low-rank matrices beside frozen ones: Hu et al. 2021, LoRA."""

    rank: Annotated[int, Field(gt=0, le=4096)]
    alpha: Positive  # what they add counts alpha / rank times
    layers: Layers  # of every block of the GPT-2: those beside which they stand


class LoraParams(Adapters):
    dropout: Share  # of what goes into them
    in_full: Parts  # what is trained in full beside them


class Trained(Strict):
    """What of a network is trained. Weights that are not all say so in their file's header."""

    adapters: Adapters | None
    parts: Parts | None  # trained in full; None: all

    @property
    def is_all(self) -> bool:
        return self.parts is None

    def takes(self, name: str) -> bool:
        """Whether the tensor of the network called `name` is trained in full."""
        return self.parts is None or any(name.startswith(f"{part}.") for part in self.parts)

    def count(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """How many numbers are trained.

        Args:
            shapes: of the whole network's tensors, by name, without adapters.
        """
        in_full = sum(prod(shape) for name, shape in shapes.items() if self.takes(name))
        if self.adapters is None:
            return in_full
        beside = tuple(f".{layer}.weight" for layer in self.adapters.layers)
        sides = (sum(shape) for name, shape in shapes.items() if name.startswith("gpt.h.") and name.endswith(beside))
        return in_full + self.adapters.rank * sum(sides)


class PhaseParams(Strict):
    """One phase of the training run."""

    method: Literal["full", "lora"]
    train_only: Annotated[Parts, Field(min_length=1)] | None  # of full: what is trained; null: all
    lora: LoraParams | None  # of lora
    epochs: PositiveInt
    batch_size: PositiveInt  # clips per micro-batch, at the most
    batch_tokens: PositiveInt | None  # text tokens and audio codes per micro-batch, at the most, too
    accumulate: PositiveInt  # micro-batches per optimiser step
    optim: Literal["adamw", "adamw8bit"]  # adamw8bit: its moments in 8 bits, by bitsandbytes
    lr: Positive  # peak
    schedule: Literal["constant", "cosine"]
    warmup_steps: NonNegativeInt
    weight_decay: NonNegative
    grad_clip: Positive  # of the gradient's norm
    ema: Fraction | None  # decay of the weights' moving average, which is evaluated beside them; null: there is none
    precision: Literal["fp32", "tf32", "bf16"]  # of matrix products; weights, moments and losses are fp32
    dropout: Share  # of embeddings and residuals
    attention_dropout: Share  # of attention's weights; 0 lets attention run in its fast kernel, and a GPU record steps
    gradient_checkpointing: bool  # less memory, but more time; on a GPU no CUDA graphs
    mask_prompt: bool  # leave the conditioning slice's own codes out of the loss
    target_mel_ce: Positive | None  # stop when eval Mel CE has held this for two evaluations
    patience: PositiveInt | None  # evaluations without a better eval Mel CE before stopping
    stop_when_overfitting: bool  # when eval Mel CE clearly rises while train Mel CE falls
    evaluate_every_steps: PositiveInt | None  # beside the end of each epoch; null: only there

    @model_validator(mode="after")
    def _method_is_described(self) -> Self:
        if self.method == "lora" and self.lora is None:
            raise ValueError("method is lora, and lora, which describes it, is null")
        if self.method == "full" and self.lora is not None:
            raise ValueError("lora describes adapters, and method is full")
        if self.method == "lora" and self.train_only is not None:
            raise ValueError("train_only belongs to method full; beside adapters there is lora.in_full")
        return self

    @property
    def trained(self) -> Trained:
        if self.lora is None:
            return Trained(adapters=None, parts=self.train_only)
        adapters = Adapters(rank=self.lora.rank, alpha=self.lora.alpha, layers=self.lora.layers)
        return Trained(adapters=adapters, parts=self.lora.in_full)
