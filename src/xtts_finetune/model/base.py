"""The base model a fine-tune starts from: checking its files, and opening it in the one form the stages read.

`prepare` writes `prepared/base/`: config.json, vocab.json, mel_stats.safetensors, base.json, and what turns codes or
latents into sound: dvae.safetensors (mini, Griffin-Lim) or vocoder.safetensors (XTTS v2's HiFi-GAN). The initial GPT
weights are read where they are (base.json says where): XTTS v2's model.pth is not copied. An extended
vocabulary has its rows in new_rows.safetensors.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xtts_finetune.core.digests import sha256_once
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json, sha256_json
from xtts_finetune.core.layout import BASE_INFO, CODEC, CONFIG, MEL_STATS, NEW_ROWS, VOCABULARY, VOCODER, Workspace
from xtts_finetune.core.phase_params import Trained
from xtts_finetune.model import xtts
from xtts_finetune.model.published import FETCH, PUBLISHED, check_published
from xtts_finetune.model.rows import grown
from xtts_finetune.model.trained import Header, freeze, merge, trained_state
from xtts_finetune.model.xtts import GPT, DiscreteVAE, VoiceBpeTokenizer

PUBLISHED_CODEC = {"codes": 1024, "hidden_dim": 512, "resnet_blocks": 3, "codebook_dim": 512}
# Left by init_gpt_for_inference in some checkpoints; the same tensors under second names.
INFERENCE_KEYS = ("gpt_inference.", "gpt.wte.")


@dataclass(frozen=True)
class Base:
    """An opened `prepared/base/`; `root` is the workspace that relative paths in base.json start from."""

    folder: Path
    root: Path

    @classmethod
    def prepared(cls, workspace: Workspace) -> Self:
        return cls(workspace.prepared / "base", workspace.root)

    @property
    def info(self) -> dict[str, Any]:
        content: dict[str, Any] = read_json(self.folder / BASE_INFO)
        return content

    @property
    def args(self) -> dict[str, Any]:
        """`model_args` of its config.json."""
        args: dict[str, Any] = read_json(self.folder / CONFIG)["model_args"]
        return args

    def tokenizer(self) -> VoiceBpeTokenizer:
        return xtts.build_tokenizer(self.folder / VOCABULARY)

    def sizes(self) -> dict[str, Any]:
        """As of `xtts.sizes`; no weight is read."""
        with torch.device("meta"):
            return xtts.sizes(xtts.build_gpt(self.args, self.tokenizer()))

    def mel_stats(self) -> Tensor:
        """(80,) mean magnitudes that log mels are divided by."""
        return load_file(self.folder / MEL_STATS)["mel_stats"]

    def gpt(self, weights: Path | None = None) -> GPT:
        """The whole network with the `weights` of a fine-tune (model.safetensors), or else with the base's own.

        Raises:
            UserError: the weights do not fit, or the base's file is gone or no longer what `prepare` saw.
        """
        header = Header.of_file(weights) if weights else None
        if weights and header:
            gpt = self.gpt_to_train(weights, header.trained, 0.0, 0)
            merge(gpt)
            return gpt
        gpt = xtts.build_gpt(self.args, self.tokenizer())
        load_state(gpt, load_file(weights) if weights else self._own_state(), weights or self._own_file)
        return gpt

    def gpt_to_train(self, weights: Path | None, trained: Trained, dropout: float, seed: int) -> GPT:
        """The network with `weights`, or the base's own, of which what is `trained` has gradients.

        Args:
            dropout, seed: as of `freeze`.

        Raises:
            UserError: as `gpt`; or the network lacks a part that is to be trained.
        """
        header = Header.of_file(weights) if weights else None
        goes_on = header is not None and header.trained == trained  # else it is put together first
        gpt = self.gpt(None if goes_on else weights)
        freeze(gpt, trained, dropout, seed)
        if weights and header and goes_on:
            self._refuse_another_base(weights, header)
            load_trained(gpt, load_file(weights), weights)
        return gpt

    def header(self, trained: Trained) -> Header | None:
        """What a file with what is `trained` beside this base's weights says of itself; None: it is all."""
        return None if trained.is_all else Header(trained=trained, base=self._digest)

    @property
    def _digest(self) -> str:
        """Of its own weights, and of the rows that were added to them."""
        own, rows = str(self.info["gpt"]["sha256"]), self._digest_of_rows
        return own if rows is None else sha256_json([own, rows])

    @property
    def _digest_of_rows(self) -> str | None:
        digests: dict[str, str] = self.info.get("files", {})
        return digests.get(NEW_ROWS)

    @property
    def _own_file(self) -> Path:
        return self.root / str(self.info["gpt"]["path"])

    def _own_state(self) -> Mapping[str, Tensor]:
        source, digest = self._own_file, self.info["gpt"]["sha256"]
        if not source.is_file() or sha256_once(source, Workspace(self.root).digests) != digest:
            what = "is not the file that prepare saw" if source.is_file() else "is not there"
            raise UserError("the base has changed", [Problem(str(source), what, "restore it, or run: dvc repro")])
        return grown(own_state(source), self.folder / NEW_ROWS, self._digest_of_rows)

    def _refuse_another_base(self, weights: Path, header: Header) -> None:
        own = self._digest
        if header.base != own:
            what = f"was trained beside the weights {header.base[:12]}…, and the base's are {own[:12]}…"
            remedy = "use it with the base that it was trained on"
            raise UserError("weights do not fit the model", [Problem(str(weights), what, remedy)])

    def codec(self) -> DiscreteVAE:
        """The DVAE that is also mini's vocoder, in evaluation mode."""
        dvae = xtts.build_dvae(**self.info["codec"])
        load_state(dvae, load_file(self.folder / CODEC), self.folder / CODEC)
        return dvae.eval()


def own_state(weights: Path) -> dict[str, Tensor]:
    """The GPT's own tensors, as the base has them: without those of an extended vocabulary."""
    return load_file(weights) if weights.suffix == ".safetensors" else dict(gpt_part(weights))


def gpt_part(checkpoint: Path) -> Iterator[tuple[str, Tensor]]:
    """The GPT's own tensors of a published or Coqui-trained model.pth."""
    return _part(checkpoint, "gpt.")


def _part(checkpoint: Path, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for key, tensor in xtts.load_published_checkpoint(checkpoint).items():
        key = key.removeprefix("xtts.")  # Coqui's trainer wraps the model once more
        if key.startswith(prefix) and not key.removeprefix(prefix).startswith(INFERENCE_KEYS):
            yield key.removeprefix(prefix), tensor


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: Path, assign: bool = False) -> None:
    """Load `state` into `module`, every key and shape exact; `assign` for a module without storage (meta).

    Raises:
        UserError: naming `source` and the first tensors that are missing, unknown or of another shape.
    """
    try:
        module.load_state_dict(dict(state), assign=assign)
    except RuntimeError as error:  # what torch raises for a misfit; its first line only names the class
        details = [line.strip() for line in str(error).splitlines()[1:]]
        shown = " ".join(details[:3]) + (f" and {len(details) - 3} more" if len(details) > 3 else "")
        remedy = "use weights, config.json and vocab.json of one and the same model"
        raise UserError("weights do not fit the model", [Problem(str(source), shown[:600], remedy)]) from None


def load_trained(gpt: GPT, state: Mapping[str, Tensor], source: Path) -> None:
    """Load `state` into what of `gpt` is trained; raises as `load_state`."""
    own = trained_state(gpt)
    frozen = {name: tensor for name, tensor in gpt.state_dict().items() if name not in own}
    load_state(gpt, {**frozen, **state}, source)


def import_published(source: Path, folder: Path, root: Path, pinned: bool) -> dict[str, Any]:
    """Check a folder of XTTS v2's files and bring what the stages need into `folder`; returns base.json's fields.

    Args:
        pinned: the files must be the published ones, byte for byte.

    Raises:
        UserError: files are missing or damaged, one is not what its name says, or they do not fit each other.
    """
    check_published(source, pinned, Workspace(root).digests)
    for name in (CONFIG, VOCABULARY):
        shutil.copyfile(source / name, folder / name)
    args = _read_args(source / CONFIG)
    _check_vocabulary(source / VOCABULARY)
    stats = xtts.load_pickle(source / "mel_stats.pth")
    if not isinstance(stats, Tensor) or stats.shape != (xtts.MEL_CHANNELS,):
        what = f"does not hold a tensor of {xtts.MEL_CHANNELS} values"
        raise UserError("the base cannot be used", [Problem(str(source / "mel_stats.pth"), what, FETCH)])
    save_file({"mel_stats": stats}, folder / MEL_STATS)

    codec = xtts.build_dvae(**PUBLISHED_CODEC)
    state = xtts.load_published_checkpoint(source / "dvae.pth")
    load_state(codec, {k: v for k, v in state.items() if not k.startswith("discrete_loss.")}, source / "dvae.pth")
    save_file(codec.state_dict(), folder / CODEC)

    model = source / "model.pth"
    with torch.device("meta"):  # shapes alone
        gpt = xtts.build_gpt(args, xtts.build_tokenizer(source / VOCABULARY))
    load_state(gpt, dict(gpt_part(model)), model, assign=True)
    vocoder = xtts.build_vocoder(args)
    load_state(vocoder, dict(_part(model, "hifigan_decoder.")), model)
    save_file(vocoder.state_dict(), folder / VOCODER)

    path = model.relative_to(root) if model.is_relative_to(root) else model
    digest = (
        PUBLISHED[model.name] if pinned else sha256_once(model, Workspace(root).digests)
    )  # pinned: just found to be this one
    return {
        "vocoder": "hifigan",
        "codec": PUBLISHED_CODEC,
        "gpt": {"path": path.as_posix(), "sha256": digest},
    }


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
        raise UserError("the base cannot be used", [Problem(str(config), what, FETCH)])
    return args


def _check_vocabulary(vocab: Path) -> None:
    try:
        tokens = xtts.build_tokenizer(vocab).tokenizer.get_vocab()
        lacking = [token for token in ("[STOP]", "[START]", "[SPACE]") if token not in tokens]
        what = f"lacks {', '.join(lacking)}" if lacking else ""
    except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower
        what = f"is not a BPE vocabulary: {error}"
    if what:
        raise UserError("the base cannot be used", [Problem(str(vocab), what, FETCH)])
