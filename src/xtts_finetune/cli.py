"""The commands people type. Handlers import what they need, so that `--help` and `status` answer at once."""

import sys

import typer

from xtts_finetune.core.errors import exit_code_of
from xtts_finetune.core.paths import Workspace

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text wraps its paragraphs, and loads faster
    help="""Fine-tune Coqui XTTS v2 on your own recordings, in two phases, without filling the disk.

    The pipeline is DVC's: `dvc repro` runs prepare, train_phase1, train_phase2 and evaluate, or what of them is not up
    to date, and resumes a run that was stopped. Its settings stand in params.yaml. `mlflow ui` compares the runs.""",
)


@app.callback(invoke_without_command=True)
def _commands(context: typer.Context) -> None:
    """Without a command, shows the help; typer's own no_args_is_help would call that a mistake and exit with 2."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def status() -> None:
    """Show Mel CE and Text CE per phase, and what to type next."""
    from xtts_finetune.ops.status import status_text

    typer.echo(status_text(Workspace.here()))


def main() -> None:
    sys.exit(exit_code_of(app))


if __name__ == "__main__":
    main()
