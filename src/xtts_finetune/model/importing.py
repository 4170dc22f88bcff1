"""A base, whichever way it came in, brought into `prepared/base/`: the one form that the stages read (`base.py`)."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from xtts_finetune.core.digests import sha256_once
from xtts_finetune.core.errors import Problem, UserError, problems_of
from xtts_finetune.core.files import write_json
from xtts_finetune.core.layout import CODEC, CONFIG, MEL_STATS, VOCABULARY, VOCODER, Workspace
from xtts_finetune.model import xtts
from xtts_finetune.model.base import load_state, part
from xtts_finetune.model.parts import CODEC_PREFIX, TITLE, Parts, find_parts
from xtts_finetune.model.xtts import GPT


def import_base(source: Path, folder: Path, root: Path, pinned: bool) -> dict[str, Any]:
    """Bring what the stages need of the base in `source` into `folder`; returns base.json's fields.

    Args:
        root: the workspace.
        pinned: its files must be the published ones, byte for byte.

    Raises:
        UserError: files are missing or damaged, one is not what its name says, or they do not fit each other; every
            problem is named.
    """
    parts = find_parts(source, pinned, Workspace(root))
    args = _import_config_and_vocabulary(parts, folder)
    states = _States()
    gpt: list[GPT] = []
    problems: list[Problem] = []
    for step in (
        lambda: _import_mel_stats(parts, states, folder),
        lambda: _import_codec(parts, states, folder),
        lambda: gpt.append(_fitting_gpt(parts, states, args)),
        lambda: _import_vocoder(parts, states, args, folder),
    ):
        problems += [problem for problem in problems_of(step) if problem not in problems]  # one file may hold all
    if problems:
        raise UserError(TITLE, problems)
    weights = parts.weights
    path = weights.relative_to(root) if weights.is_relative_to(root) else weights
    return {
        "vocoder": "griffin_lim" if parts.vocoder is None else "hifigan",
        "codec": parts.codec_shape,
        "gpt": {
            "path": path.as_posix(),
            "sha256": sha256_once(weights, Workspace(root).digests),
        },
    }


class _States:
    """The tensors of files, each opened once; those of a checkpoint are mapped, not read."""

    def __init__(self) -> None:
        self._opened: dict[Path, Mapping[str, Tensor]] = {}

    def __call__(self, path: Path) -> Mapping[str, Tensor]:
        if path not in self._opened:
            of_ours = path.suffix == ".safetensors"
            self._opened[path] = _of_safetensors(path) if of_ours else xtts.load_published_checkpoint(path)
        return self._opened[path]


def _of_safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        remedy = "copy the file again, from a source you trust"
        raise UserError(TITLE, [Problem(str(path), f"is damaged or no safetensors file: {error}", remedy)]) from None


def _import_config_and_vocabulary(parts: Parts, folder: Path) -> dict[str, Any]:
    """Copy both; returns model_args."""
    args = xtts.default_args()
    problems = problems_of(lambda: _check_vocabulary(parts.vocabulary))
    if parts.config is None:
        write_json(folder / CONFIG, xtts.default_config(args))
    else:
        config = parts.config
        problems += problems_of(lambda: args.update(_read_args(config)))
        shutil.copyfile(config, folder / CONFIG)
    if problems:
        raise UserError(TITLE, problems)
    shutil.copyfile(parts.vocabulary, folder / VOCABULARY)
    return args


def _import_mel_stats(parts: Parts, states: _States, folder: Path) -> None:
    path = parts.mel_stats
    if path == parts.weights:
        stats = dict(part(states(path), "")).get("mel_stats")
    elif path.suffix == ".safetensors":
        stats = states(path).get("mel_stats")
    else:
        stats = xtts.load_pickle(path)
    if not isinstance(stats, Tensor) or stats.shape != (xtts.MEL_CHANNELS,):
        what = f"does not hold a tensor of {xtts.MEL_CHANNELS} values"
        what += " by the name of mel_stats" if path == parts.weights else ""
        raise UserError(TITLE, [Problem(str(path), what, "take the file of the same model again")])
    save_file({"mel_stats": stats.float().contiguous()}, folder / MEL_STATS)


def _import_codec(parts: Parts, states: _States, folder: Path) -> None:
    path = parts.codec
    state = dict(part(states(path), CODEC_PREFIX if path == parts.weights else ""))
    codec = xtts.build_dvae(**parts.codec_shape)
    load_state(codec, {k: v for k, v in state.items() if not k.startswith("discrete_loss.")}, path)
    save_file(codec.state_dict(), folder / CODEC)


def _fitting_gpt(parts: Parts, states: _States, args: dict[str, Any]) -> GPT:
    """The network, on no device, with what the weights have."""
    weights = parts.weights
    with torch.device("meta"):  # shapes alone
        gpt = xtts.build_gpt(args, xtts.build_tokenizer(parts.vocabulary))
    state = states(weights)
    load_state(gpt, dict(state if weights.suffix == ".safetensors" else part(state, "gpt.")), weights, assign=True)
    return gpt


def _import_vocoder(parts: Parts, states: _States, args: dict[str, Any], folder: Path) -> None:
    path = parts.vocoder
    if path is None:
        return
    vocoder = xtts.build_vocoder(args)
    load_state(vocoder, dict(part(states(path), "hifigan_decoder." if path == parts.weights else "")), path)
    save_file(vocoder.state_dict(), folder / VOCODER)


def _read_args(config: Path) -> dict[str, Any]:
    try:
        args: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))["model_args"]
        sizes = {name: value for name, value in xtts.default_args().items() if isinstance(value, int)}
        lacking = [name for name, value in sizes.items() if type(args.get(name)) is not type(value)]
        what = f"lacks usable model_args: {', '.join(lacking)}" if lacking else ""
        if not what and not args.get("gpt_use_perceiver_resampler"):
            what = "is of a model without gpt_use_perceiver_resampler, which XTTS v2 has: it cannot be trained here"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"is not the config.json of an XTTS model: {error!r}"
    if what:
        raise UserError(TITLE, [Problem(str(config), what, "take that of the model that the weights are of")])
    return args


def _check_vocabulary(vocab: Path) -> None:
    try:
        tokens = xtts.build_tokenizer(vocab).tokenizer.get_vocab()
        lacking = [token for token in ("[STOP]", "[START]", "[SPACE]") if token not in tokens]
        what = f"lacks {', '.join(lacking)}" if lacking else ""
    except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower
        what = f"is not a BPE vocabulary: {error}"
    if what:
        raise UserError(TITLE, [Problem(str(vocab), what, "take that of the model that the weights are of")])
