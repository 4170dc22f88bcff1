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
    """Show Mel CE and Text CE per phase, whether the next one fits on the disk, and what to type next."""
    from xtts_finetune.ops.status import status_text

    typer.echo(status_text(Workspace.here()))


@app.command()
def disk() -> None:
    """Show what holds the disk, what training has yet to write, and what can go.

    For each file system: what is free, and what each part of this project holds there. A file with several names
    (hard links) counts once, under the first of the names shown here, so each figure is what goes with that part.

    For each phase still to be trained: its peak, term by term. A resumable state is weights and optimiser; a phase
    keeps `checkpoints.keep_last` of them, writes one more before the oldest goes, and keeps its best weights. The same
    sum is made before a phase starts, and refuses it in a second rather than filling the disk in an hour.

    Then the commands that make room, and what each of them frees.
    """
    from xtts_finetune.ops.disk import disk_text

    typer.echo(disk_text(Workspace.here()))


def main() -> None:
    sys.exit(exit_code_of(app))


if __name__ == "__main__":
    main()
