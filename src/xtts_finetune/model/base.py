"""The base model a fine-tune starts from, in the one form the stages read.

`prepare` writes `prepared/base/`: config.json, vocab.json, mel_stats.safetensors, base.json, and what turns codes or
latents into sound: dvae.safetensors (mini, Griffin-Lim) or vocoder.safetensors (XTTS v2's HiFi-GAN). The initial GPT
weights are read where they are (base.json says where): XTTS v2's model.pth is not copied. An extended vocabulary has
its rows in new_rows.safetensors. `importing.py` does that.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xtts_finetune.core.digests import sha256_once
from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.files import read_json, sha256_json
from xtts_finetune.core.layout import BASE_INFO, CODEC, CONFIG, MEL_STATS, NEW_ROWS, VOCABULARY, Workspace
from xtts_finetune.core.phase_params import Trained
from xtts_finetune.model import xtts
from xtts_finetune.model.header import Header
from xtts_finetune.model.misfit import misfit
from xtts_finetune.model.rows import grown
from xtts_finetune.model.trained import freeze, merge, trained_state
from xtts_finetune.model.xtts import GPT, DiscreteVAE, VoiceBpeTokenizer

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
        gpt = xtts.build_gpt_to_load(self.args, self.tokenizer())
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
        if weights and not goes_on and not trained.is_all:  # who reads it puts it beside the base's own
            what = "is not what params.yaml has phase 2 go on with: it trains other parts, or all of the network"
            remedy = "train phase 1 anew, or all of the network in phase 2 (method: full, train_only: null)"
            raise UserError("nothing to go on with", [Problem(str(weights), what, remedy)])
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
        if not source.is_file():
            remedy = "bring its folder back: what was trained beside it needs it"
            raise UserError("the base is not there", [Problem(str(source), "is missing", remedy)])
        if sha256_once(source, Workspace(self.root).digests) != digest:
            what, remedy = "is not the file that prepare saw", "restore it, or run: dvc repro"
            raise UserError("the base has changed", [Problem(str(source), what, remedy)])
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
    if weights.suffix == ".safetensors":
        return load_file(weights)
    return dict(part(xtts.load_published_checkpoint(weights), "gpt."))


def part(state: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """What of a published or Coqui-trained checkpoint stands under `prefix`, without it."""
    for key, tensor in state.items():
        key = key.removeprefix("xtts.")  # Coqui's trainer wraps the model once more
        if key.startswith(prefix) and not key.removeprefix(prefix).startswith(INFERENCE_KEYS):
            yield key.removeprefix(prefix), tensor


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: Path, assign: bool = False) -> None:
    """Load `state` into `module`, every key and shape exact; `assign` for a module without storage (meta).

    Raises:
        UserError: naming `source` and every tensor that is missing, unknown or of another shape.
    """
    try:
        module.load_state_dict(dict(state), assign=assign)
    except RuntimeError as error:  # what torch raises for a misfit
        raise misfit(source, error) from None


def load_trained(gpt: GPT, state: Mapping[str, Tensor], source: Path) -> None:
    """Load `state` into what of `gpt` is trained; raises as `load_state`."""
    own = trained_state(gpt)
    frozen = {name: tensor for name, tensor in gpt.state_dict().items() if name not in own}
    if also := sorted(state.keys() & frozen.keys()):
        what, remedy = f"has what is frozen here: {', '.join(also)}", "go on with the code that wrote it"
        raise UserError("weights do not fit the model", [Problem(str(source), what, remedy)])
    load_state(gpt, {**frozen, **state}, source)
