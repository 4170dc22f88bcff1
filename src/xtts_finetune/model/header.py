"""What a weights file says of itself where it holds what was trained alone, beside a base: together they are a whole
network. It is read without loading torch.
"""

from pathlib import Path
from typing import Self

from safetensors import SafetensorError, safe_open

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.phase_params import Strict, Trained

_ENTRY = "trained"  # of a file's header: one, as safetensors writes several in any order


class Header(Strict):
    """What a weights file says of itself where it is not all of a network."""

    trained: Trained
    base: str  # SHA-256 of the weights beside which these were trained

    @classmethod
    def of_file(cls, weights: Path) -> Self | None:
        """None: the file is a whole network.

        Raises:
            UserError: it is damaged, or of no kind that is known here.
        """
        try:
            with safe_open(weights, framework="numpy") as file:
                entry = (file.metadata() or {}).get(_ENTRY)
            return None if entry is None else cls.model_validate_json(entry)
        except (SafetensorError, ValueError) as error:
            problem = Problem(str(weights), f"cannot be read: {error}"[:300], "bring it back, or train again")
        raise UserError("weights do not fit the model", [problem])

    def entries(self) -> dict[str, str]:
        return {_ENTRY: self.model_dump_json()}
