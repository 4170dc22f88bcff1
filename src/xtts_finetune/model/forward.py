"""The training forward of XTTS's GPT: its own modules and weights, without padding and without waiting for the device.

Each clip is one sequence: conditioning latents, text, audio codes. Coqui's `GPT.forward` (TTS/tts/layers/xtts/gpt.py)
pads between text and audio and masks the padding out again; here a clip's rows lie end to end, so that attention needs
nothing but causality, and everything outside of attention works on real rows alone. What comes out is the same.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from torch.utils.checkpoint import checkpoint

from xtts_finetune.model.xtts import GPT

LATENTS = 32  # rows of a clip that say how the voice sounds (PerceiverResampler's num_latents)


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch of clips, as rows. Before attention they are sorted by kind: all latents, all text, all audio codes.

    Attributes:
        conditioning: (clips, samples) float32 voice prompts at 22 050 Hz.
        text, text_positions: (text rows,) int64, START and the tokens, clip after clip, and their places in the clip.
        codes, code_positions: (code rows,) int64, START, the codes and three times STOP, likewise.
        order: (rows,) int64, of the sequences' rows, clip after clip: which row by kind each is.
        inverse: (LATENTS × clips + text rows + code rows,) int64: where each row by kind went.
        bounds: (sequences + 1,) int32, where sequences begin and end; None where they are padded to the same length.
        longest: rows of the longest sequence, or more.
    """

    conditioning: Tensor
    text: Tensor
    text_positions: Tensor
    codes: Tensor
    code_positions: Tensor
    order: Tensor
    inverse: Tensor
    bounds: Tensor | None
    longest: int

    def tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Settings:
    """How the forward is computed, in training.

    Attributes:
        attention_dropout: of attention's weights; the padding-free kernel of a GPU has none.
        gradient_checkpointing: keep a layer's input alone and compute the rest again in the backward pass.
    """

    attention_dropout: float = 0.0
    gradient_checkpointing: bool = False


def set_dropout(gpt: GPT, probability: float) -> None:
    """Of embeddings and residuals; 0.1 as Coqui trains (GPT2Config's default)."""
    for name, module in gpt.gpt.named_modules():
        if isinstance(module, nn.Dropout) and "lora_dropout" not in name:  # adapters have their own
            module.p = probability


def hidden_states(gpt: GPT, prompt: Tensor, packed: Packed, settings: Settings) -> tuple[Tensor, Tensor]:
    """What the heads read: (text rows, width) and (code rows, width).

    Args:
        prompt: (clips, 80, frames) log mels.
    """
    latents = conditioning_latents(gpt, prompt)
    text = gpt.text_embedding(packed.text) + gpt.text_pos_embedding.emb(packed.text_positions)
    codes = gpt.mel_embedding(packed.codes) + gpt.mel_pos_embedding.emb(packed.code_positions)
    rows = torch.cat([latents.flatten(0, 1), text, codes])
    hidden = gpt.gpt.drop(_reordered(rows, packed.order, packed.inverse))
    for block in gpt.gpt.h:
        if settings.gradient_checkpointing and gpt.training:
            hidden = checkpoint(_layer, block, hidden, packed, settings, use_reentrant=False)
        else:
            hidden = _layer(block, hidden, packed, settings)
    hidden = gpt.final_norm(gpt.gpt.ln_f(hidden))
    _, of_text, of_codes = _reordered(hidden, packed.inverse, packed.order).split(
        [len(prompt) * LATENTS, len(packed.text), len(packed.codes)]
    )
    return of_text, of_codes


def _layer(block: Any, hidden: Tensor, packed: Packed, settings: Settings) -> Tensor:
    """GPT2Block, on (rows, width)."""
    attn, mlp = block.attn, block.mlp
    query, key, value = attn.c_attn(block.ln_1(hidden)).view(len(hidden), 3, attn.num_heads, attn.head_dim).unbind(1)
    dropout = settings.attention_dropout if block.training else 0.0
    mixed = _attention(query, key, value, packed, dropout)
    hidden = hidden + attn.resid_dropout(attn.c_proj(mixed))
    inner = F.gelu(mlp.c_fc(block.ln_2(hidden)), approximate="tanh")  # GPT-2's gelu_new in one operator
    out: Tensor = hidden + mlp.dropout(mlp.c_proj(inner))
    return out


def _attention(query: Tensor, key: Tensor, value: Tensor, packed: Packed, dropout: float) -> Tensor:
    """Causal attention inside every sequence: (rows, heads, width of a head) each → (rows, width).

    Without bounds the sequences are of one length, the rows that fill them up at their ends, where causality hides
    them from all others.
    """
    if packed.bounds is not None:
        assert not dropout, "the padding-free kernel has no dropout"
        bounds, longest = packed.bounds, packed.longest
        mixed = varlen_attn(query, key, value, bounds, bounds, longest, longest, window_size=(-1, 0))
        assert isinstance(mixed, Tensor)  # nothing else was asked for
        return mixed.flatten(1)
    query, key, value = (rows.unflatten(0, (-1, packed.longest)).transpose(1, 2) for rows in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


class _Reorder(torch.autograd.Function):
    """Rows in another order. Torch's own backward of an index adds up, which is slow where it must be deterministic."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradients[0].index_select(0, inverse), None, None


def _reordered(rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """`rows[order]`. What `order` names twice has no gradient in its second place, nor has what it leaves out.

    Padding is such a second place: nobody reads it. Back in the order by kind, padding gets the gradient of the first
    row, a latent: none, as no head reads latents.
    """
    reordered: Tensor = _Reorder.apply(rows, order, inverse)  # type: ignore[no-untyped-call]
    return reordered


def conditioning_latents(gpt: GPT, prompt: Tensor) -> Tensor:
    """(clips, 80, frames) log mels → (clips, LATENTS, width), as `GPT.get_style_emb`, its attention fused."""
    encoder = gpt.conditioning_encoder
    frames = _pointwise(encoder.init, prompt.transpose(1, 2))
    for block in encoder.attn:
        frames = _encoder_layer(block, frames)
    return _resampled(gpt.conditioning_perceiver, frames)


def _encoder_layer(block: Any, frames: Tensor) -> Tensor:
    """AttentionBlock (TTS/tts/layers/tortoise/arch_utils.py), on (clips, frames, width)."""
    normed = block.norm(frames.transpose(1, 2)).transpose(1, 2).contiguous()
    # (clips, heads, frames, query key value, width of a head)
    parts = _pointwise(block.qkv, normed).unflatten(2, (block.num_heads, 3, -1)).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(*parts.unbind(3))
    out: Tensor = normed + _pointwise(block.proj_out, mixed.transpose(1, 2).flatten(2))
    return out


def _pointwise(convolution: nn.Conv1d, frames: Tensor) -> Tensor:
    """A convolution of kernel size 1 on (clips, frames, width): a matrix product, which is what is quick."""
    product = F.linear(frames.flatten(0, 1), convolution.weight.squeeze(2), convolution.bias)
    unpacked: Tensor = product.unflatten(0, frames.shape[:2])
    return unpacked


def _resampled(perceiver: Any, frames: Tensor) -> Tensor:
    """PerceiverResampler (TTS/tts/layers/xtts/perceiver_encoder.py): (clips, frames, width) → (clips, LATENTS, …)."""
    context = perceiver.proj_context(frames)
    latents = perceiver.latents.expand(len(frames), -1, -1)
    for attention, feed_forward in perceiver.layers:
        heads = (attention.heads, -1)
        seen = torch.cat([latents, context], dim=1)
        query = attention.to_q(latents).unflatten(2, heads).transpose(1, 2)
        key, value = attention.to_kv(seen).unflatten(2, (2, *heads)).transpose(1, 3).unbind(2)
        mixed = F.scaled_dot_product_attention(query, key, value)
        latents = attention.to_out(mixed.transpose(1, 2).flatten(2)) + latents
        latents = feed_forward(latents) + latents
    normed: Tensor = perceiver.norm(latents)
    return normed
