"""The console script `xtts-finetune`."""

import os
import sys

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.errors import exit_code_of
from xtts_finetune.core.layout import Workspace


def main() -> None:
    # pydantic would look for plugins in every package that is installed: a tenth of `status`'s time
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.exit(exit_code_of(_status if sys.argv[1:] == ["status"] else _any))


def _status() -> None:
    """As `commands.status` without an option, and without what reads options: to load that takes as long again."""
    from xtts_finetune.report.gathering import gather
    from xtts_finetune.report.text import text_of
    from xtts_finetune.stages.output import speak_on_unheard

    speak_on_unheard()
    print(as_typed(text_of(gather(Workspace.here()))))


def _any() -> None:
    from xtts_finetune.commands import app
    from xtts_finetune.stages.output import spell_out_what_is_lacking

    spell_out_what_is_lacking()
    app()


if __name__ == "__main__":
    main()
