"""The commands people type. Handlers import what they need, so that `--help` and `status` answer at once."""

import sys
from typing import Annotated

import typer

from xtts_finetune.core.errors import exit_code_of
from xtts_finetune.core.layout import Workspace

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


@app.command()
def clean(
    intermediates: Annotated[
        bool, typer.Option("--intermediates", help="Keep the best and the newest state of every phase.")
    ] = False,
    best_only: Annotated[
        bool, typer.Option("--best-only", help="Of finished phases keep the exported best alone (models/).")
    ] = False,
    archive: Annotated[
        str | None,
        typer.Option(metavar="REMOTE", help="As --best-only, when the states are safe in this DVC remote."),
    ] = None,
    restore: Annotated[bool, typer.Option("--restore", help="With --archive: bring the states back.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Else only the plan is shown.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also what nothing can make again: resume points (--best-only), earlier recordings; "
            "and objects of a cache that other projects may share.",
        ),
    ] = False,
) -> None:
    """Show what can go and what that frees; with --yes, free it.

    Every option also drops what DVC's cache holds for earlier runs (dvc gc), and what killed processes left behind.
    The best of every phase, the registered models, the recordings and what a live trainer holds always stay.
    """
    from xtts_finetune.ops.clean import Choice, clean_text

    choice = Choice(intermediates, best_only, archive, restore, yes, force)
    for line in clean_text(Workspace.here(), choice):
        typer.echo(line)


@app.command()
def sync() -> None:
    """Deliver to MLflow what waits for it: points of the curves, figures, a model to be registered.

    Training and evaluation never wait for an MLflow server (tracking.uri in params.yaml) that is down or hangs: what
    it did not take is kept in work/, and every next stage tries again. This command delivers it now. `status` shows
    how much waits. Nothing is stored twice, also when it is stopped and typed again.
    """
    from xtts_finetune.ops.sync import sync_lines

    for line in sync_lines(Workspace.here()):
        typer.echo(line)


def main() -> None:
    sys.exit(exit_code_of(app))


if __name__ == "__main__":
    main()
