"""The commands people type. Handlers import what they need, so that `--help` and `status` answer at once."""

from pathlib import Path
from typing import Annotated

import typer

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.layout import Workspace

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text wraps its paragraphs, and loads faster
    help="""Fine-tune Coqui XTTS v2 on your own recordings, in two phases, without filling the disk.

    The pipeline is DVC's: `dvc repro` runs check, prepare, train_phase1, train_phase2 and evaluate, or what of them is
    not up to date, and resumes a run that was stopped. Its settings stand in params.yaml. `mlflow ui` compares the
    runs.""",
)


@app.callback(invoke_without_command=True)
def _commands(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Without a command, shows the help; typer's own no_args_is_help would call that a mistake and exit with 2."""
    if version:
        import importlib.metadata

        typer.echo(f"xtts-finetune {importlib.metadata.version('xtts-finetune')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def status(
    json: Annotated[
        bool, typer.Option("--json", help="For programs: docs/report.schema.json says what each field means.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="As it changes, until Ctrl-C; from any terminal.")] = False,
    pages: Annotated[
        bool, typer.Option("--pages", help="Also write reports/status.md and reports/index.html, as it is now.")
    ] = False,
) -> None:
    """Show Mel CE and Text CE per phase, when the target is reached, what fits on the disk, and what to type next.

    From five evaluations on, when its target Mel CE is reached is told as a range of steps and of time that holds the
    truth in four of five cases, by a curve fitted to them, or that it is not at this rate; also whether the phase
    overfits. Each evaluation is shown with what it brought. Then the disk: what is free, what this project holds, what
    `clean` frees; and how params.yaml differs from the last commit and from the champion's (docs/report.md).

    The same, with curves and samples, is written to reports/status.md and reports/index.html whenever a stage ends or
    stops; what DVC brings from its cache ends no stage: --pages writes them now. Nothing here waits for a trainer or
    for MLflow, or keeps one waiting.
    """
    if json and watch:
        raise typer.BadParameter("--json is of one moment: leave out --watch")
    from xtts_finetune.report.gathering import gather
    from xtts_finetune.report.text import text_of
    from xtts_finetune.report.watch import watch as watch_on

    if watch:
        watch_on(Workspace.here())
        return
    report = gather(Workspace.here())
    if pages:
        from xtts_finetune.report.pages import write_pages

        write_pages(Workspace.here())
    typer.echo(report.model_dump_json(indent=2) if json else as_typed(text_of(report)))


@app.command()
def repro(
    duration: Annotated[str, typer.Option("--for", metavar="TIME", help="As 6h, 90m or 1h30m.", show_default=False)],
) -> None:
    """Run `dvc repro` for so long, and no longer: as before a machine must be given back, or a night ends.

    When the time is up the step under way is finished and saved, which takes seconds on a GPU, and the command ends
    with exit code 75; `dvc repro`, or this again, goes on there, to the same bytes. No other stage begins after that;
    but prepare, evaluate and an evaluation between steps, once begun, come to their end.
    A pipeline that is done earlier ends earlier, with 0. Ctrl-C saves and stops, as ever.
    """
    from xtts_finetune.core.deadline import seconds_of
    from xtts_finetune.ops.repro import repro as run

    try:
        seconds = seconds_of(duration)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--for") from None
    raise typer.Exit(run(Workspace.here(), seconds))


@app.command()
def experiments() -> None:
    """Show what DVC's experiments came to, the best first, beside HEAD: a table, and a picture of their curves.

    A sweep is queued by dvc exp run --queue -S train_phase2.lr=1e-4,3e-4 -S train_phase2.epochs=2,4, which is every
    combination, and run, one after the other, by dvc queue start. Each runs in a copy of this checkout, keeps what it
    has saved in work/queue/ here, and logs to this checkout's MLflow; none registers a model. Stopped (dvc queue kill),
    it goes on when the same is queued again.

    Shown are the settings that differ between them. The last lines say how to take the best one here, which registers
    it, and how to be rid of the rest. The picture is reports/experiments.svg.
    """
    from xtts_finetune.report.experiments import experiment_lines

    for line in experiment_lines(Workspace.here()):
        typer.echo(as_typed(line))


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

    typer.echo(as_typed(disk_text(Workspace.here())))


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
    parked: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Delete the parked run of that key. No other option touches one."),
    ] = None,
    history: Annotated[
        bool,
        typer.Option(
            "--history",
            help="With --intermediates, --best-only or --archive: also what git and `dvc exp list` name: the states of "
            "every run, and whole runs that only earlier commits name. The best (models/) of HEAD, branches, tags, "
            "experiments and stashes stays.",
        ),
    ] = False,
    versions: Annotated[
        str | None,
        typer.Option(
            metavar="keep=N",
            help="Delete registered versions, with their files, but for the newest N, those that an alias names and "
            "those that ever were champion. No other option touches one.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Else only the plan is shown.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="With one of them: also what nothing can make again: unfinished runs, whole (--best-only), earlier "
            "recordings; and objects of a cache that other projects may share.",
        ),
    ] = False,
) -> None:
    """Show what can go and what that frees; with --yes, free it.

    Every option also drops from DVC's cache the runs that nothing names, and what killed processes left behind. A run
    is named by the workspace's dvc.lock, by any commit that HEAD, a branch, a tag or a stash reaches, and by an
    experiment of `dvc exp list`: all of it stays, listed with its Mel CE, so that `git checkout` (or `dvc exp apply`)
    and `dvc checkout` bring it back. The run that lies here does lose states, unless a tag, an experiment or a stash
    names it, too: commit dvc.lock afterwards. To let an experiment go: `dvc exp remove NAME`, then clean.

    Plain `dvc gc -w` is not as careful: it knows the workspace alone, and takes every other commit's and experiment's
    models with it. Its safe form is `dvc gc --all-commits --all-experiments --skip-failed`.

    The best of every phase, the recordings and what a live trainer holds always stay. So do registered models, but for
    --versions, and parked runs: their parameters were changed before they ended, and when these come back they go on.
    """
    from xtts_finetune.ops.clean import Choice, clean_text

    choice = Choice(intermediates, best_only, archive, restore, yes, force, history, parked, versions)
    if versions is not None:
        from xtts_finetune.promotion.pruning import prune_lines

        choice.refuse_beside_versions()
        for line in prune_lines(Workspace.here(), versions, yes):
            typer.echo(as_typed(line))
        return
    for line in clean_text(Workspace.here(), choice):
        typer.echo(as_typed(line))


@app.command()
def restore(
    version: Annotated[str, typer.Argument(help="Its number, or an alias: champion, candidate.", show_default=False)],
) -> None:
    """Put a registered version back into models/: its weights and model.json, checked against the registry.

    Costs no room where MLflow's store is a folder here (hard links); from a server it is downloaded. Says whether
    DVC agrees: dvc.lock names this model; or else which commit, branch, tag or experiment does, and what to type to
    go back to that run whole. A model that is in models/ and nowhere else is not overwritten.
    """
    from xtts_finetune.ops.restore import restore_text

    for line in restore_text(Workspace.here(), version):
        typer.echo(as_typed(line))


@app.command()
def rebuild(
    step: Annotated[
        int, typer.Option("--step", metavar="N", min=0, help="Counted from phase 1's first, as in MLflow.")
    ],
) -> None:
    """Train the state of a step again that was pruned or cleaned away: bit by bit the same, on the same kind of device.

    It is trained from the nearest state before it that is kept, or from the phase's beginning, by the parameters of
    params.yaml, which must be those of the run that lies here. Every figure on the way is compared with what was
    recorded then, those of two more steps behind it, and its files by their SHA-256 where that is known. If anything
    differs nothing is kept: exit code 2.

    The state lies in work/rebuilt/ then, for `xtts-finetune export phase1@N FOLDER`; `clean` lets it go.
    """
    from xtts_finetune.stages.process import begin_process

    begin_process()
    from xtts_finetune.replay.rebuild import rebuild_lines

    for line in rebuild_lines(Workspace.here(), step):
        typer.echo(as_typed(line))


@app.command()
def reproduce(
    version: Annotated[str, typer.Argument(help="Its number, or an alias: champion, candidate.", show_default=False)],
    check: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Train N random stretches again, and say whether it comes out the same."),
    ] = None,
) -> None:
    """Say how a registered version comes about again: the commit that names its run, and what to type there.

    With --check N, in the checkout of that run, it is proven by sample that the version's weights come from these
    recordings and these parameters. The recordings are prepared again. Then N stretches of its training, drawn by
    chance among all, are trained again, each from the nearest state before it that is kept (checkpoints.keep_last) or
    from the phase's beginning. Every figure must be as recorded, to the last bit, and what was kept of weights and
    optimiser by its SHA-256. On another kind of processor or GPU than that of then, sums may be rounded otherwise. If
    anything differs: exit code 2.
    """
    from xtts_finetune.stages.process import begin_process

    begin_process()
    from xtts_finetune.replay.reproduce import reproduce_lines

    for line in reproduce_lines(Workspace.here(), version, check):
        typer.echo(as_typed(line))


@app.command()
def promote(
    version: Annotated[str | None, typer.Argument(help="Its number, or an alias. Else candidate.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Though it does not pass. Needs --why.")] = False,
    why: Annotated[str, typer.Option(metavar="TEXT", help="In your words; it is written down.")] = "",
) -> None:
    """Make a registered version champion, if it is better than the champion by the rules of params.yaml (promotion).

    Its eval Mel CE must be below the champion's by more than `mel_ce_margin`, its Text CE at most `text_ce_tolerance`
    above. The figures are those of their evaluations where both were measured on the same eval split (by the SHA-256
    of its audio, codes and tokens); else both are measured now, on the eval split in prepared/.

    Then both say `sentences` transcripts of the eval split, and are compared by nine measures of speech and by alarms
    (docs/speech-measures.md); with 0 neither is heard. What cannot be measured does not pass; only where
    the base's weights are not on this machine is its rule left out, and that said. A table shows every rule; where one
    does not pass nothing is changed: exit code 2. Nor where another became champion meanwhile. A version whose files
    are gone, or whose weights are not those that were registered, becomes champion not even by --force.

    Every move of the champion is written down in registry/promotions.jsonl (commit it) and in MLflow, as a tag of the
    version: see `xtts-finetune history`. `xtts-finetune rollback` takes one back.
    """
    from xtts_finetune.promotion.command import Request, promote_lines

    for line in promote_lines(Workspace.here(), Request(version, force, why)):
        typer.echo(as_typed(line))


@app.command()
def rollback(
    why: Annotated[str, typer.Option(metavar="TEXT", help="In your words; it is written down.")] = "",
) -> None:
    """Make the version champion again that was it before, by the log of promotions. Twice, it goes back further.

    A version that was deleted since, or has lost its files, is passed over, which is said.
    """
    from xtts_finetune.promotion.command import rollback_lines

    for line in rollback_lines(Workspace.here(), why):
        typer.echo(as_typed(line))


@app.command()
def history(
    verify: Annotated[bool, typer.Option("--verify", help="Hold every entry against MLflow's copy of it.")] = False,
    vouch: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST", help="Answer for an entry of the file that MLflow never had, as --verify names it."
        ),
    ] = None,
) -> None:
    """Show who became champion: when, by whom, by which figures, and why.

    The log is registry/promotions.jsonl, an entry a line, and a copy of each in MLflow. Every entry has its own SHA-256
    and those of the entries before it, so that one that was changed, or taken out, is found: here always, in MLflow's
    copies with --verify. Entries that other clones wrote come from MLflow; where it does not answer, the file is shown.
    """
    from xtts_finetune.promotion.command import history_lines, vouch_lines

    for line in vouch_lines(Workspace.here(), vouch) if vouch is not None else history_lines(Workspace.here(), verify):
        typer.echo(as_typed(line))


@app.command()
def export(
    *,
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="WHAT", help="Which model, as below. Else the champion, or the newest phase's."),
    ] = None,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for it.", show_default=False)],
    speaker: Annotated[
        str | None, typer.Option(metavar="NAME", help="What other programs call the voice. Else as the folder.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Weights in fp16: half the size, read the same way.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in that folder.")] = False,
) -> None:
    """Write a model into a folder that Coqui's own class loads, and with it other programs: export phase2 ../anna.

    WHAT is champion, candidate or the number of a registered version; phase1 or phase2, for that phase's best
    (models/); or a step that is still there, as phase2@1200 (work/, checkpoints/). Any other lists what there is.

    The folder gets XTTS v2's files: config.json, vocab.json, model.pth (1.87 GB, with --half 0.93) and
    speakers_xtts.pth, with your voice in it as the evaluation's samples have it; and README.md, which says how to speak
    with it, what it scored and where it came from. The optimiser's state stays here, and no GPU is used.

    All that goes in is checked by its SHA-256. A phase or a step speaks with the voice and the base in prepared/, and
    is refused where these are not what it was trained with; a registered version has its own. The folder has its name
    only when all of it is there, and takes the place of nothing but an empty one.

    For bases with XTTS v2's vocoder: mini is none. Licence: what is trained from XTTS v2 is for non-commercial use.
    """
    from xtts_finetune.stages.process import begin_process

    begin_process()
    from xtts_finetune.export.command import Request, export_lines

    if what and len(what) > 1:
        raise typer.BadParameter(f"one model at a time, and a folder after it: not {' '.join(what)}")
    request = Request(what[0] if what else None, folder, speaker, half, force)
    for line in export_lines(Workspace.here(), request):
        typer.echo(as_typed(line))


base = typer.Typer(rich_markup_mode=None)
app.add_typer(base, name="base")


@base.callback(invoke_without_command=True)
def _base_commands(context: typer.Context) -> None:
    """What a fine-tune starts from: fetch it into base/, where params.yaml names it.

    Files of your own need no fetching: a folder with XTTS v2's files, a run of Coqui's trainer or an export of ours is
    named as it lies there (docs/bases.md).
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@base.command()
def fetch(
    what: Annotated[
        str | None,
        typer.Argument(metavar="models:/NAME@ALIAS", help="A registered model, or models:/NAME/3. Else XTTS v2."),
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="XTTS v2's: the Coqui Public Model License 1.0.0.")
    ] = False,
) -> None:
    """Bring XTTS v2, or a model that is registered here, into base/.

    XTTS v2: Coqui's published files (2.1 GB) from Hugging Face's hub into base/xtts_v2/, of one revision and checked by
    their SHA-256; files that are right stay, a download that was stopped goes on. Its licence allows non-commercial use
    only: --accept-licence says that you have read it. Without a network the message names the files to copy.

    A registered model, as models:/xtts-finetune@champion: into base/xtts-finetune-3/, checked by the SHA-256 that it
    was registered with; as hard links where MLflow's store is a folder here. A fine-tune of it starts from its weights,
    with its vocabulary. The last line says what to write into params.yaml.
    """
    from xtts_finetune.ops.base import fetch_lines

    for line in fetch_lines(Workspace.here(), what, accept_licence):
        typer.echo(as_typed(line))


@app.command()
def plan(
    vram: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory of the GPU that is to train, as 8GiB; it need not be here."),
    ] = None,
    params: Annotated[Path, typer.Option(metavar="FILE", help="Whose plan: params.yaml, or one of presets/.")] = Path(
        "params.yaml"
    ),
    tokens_per_second: Annotated[
        float | None, typer.Option(metavar="N", min=1e-9, help="How fast the training is, for the hours.")
    ] = None,
) -> None:
    """Tell what a training will need of memory, disk and time, before it begins, with or without a GPU.

    The memory is not computed by a formula: a step and an evaluation are taken with tensors that have shapes and no
    content, by the code that trains, and what they hold is counted (tests hold this against real steps: within 10 %).
    It is that of the largest batch there can be: of the longest prepared clips, or, before `prepare`, of clips as long
    as prepare.max_seconds and prepare.max_text_tokens allow; so, too, where prepared/ is of another base, of other
    settings or of recordings before. No weight is loaded; where a base's folder is not there, it is planned for XTTS v2
    as published.

    Of a GPU the plan takes for granted: half a GiB for CUDA and its libraries; in bf16 without attention dropout
    attention on clips end to end (Ampere or later), else in kernels that keep no scores; CUDA graphs, where a step has
    them, that hold its activations once more; and 10 % of the tensors to spare. A copy for a save takes room on the GPU
    only where it is free. Of a processor: 1 GiB for Python and what it loads, and the copy for a save. Of several
    processes (launch) it is the plan of one that has the whole batch.

    The table shows what each way to train needs; tf32 stands for fp32, too, which needs as much. Recommended is the
    quickest that fits: without checkpointing before with it, your precision before another, adamw before adamw8bit, and
    then the largest batch, accumulated to as many clips a step as before. Hours follow from a rate: the one you state,
    or, without --vram, the one that was measured in this checkout in a run from the same weights.
    """
    from xtts_finetune.core.params import load_params
    from xtts_finetune.planning.vram import parsed_size
    from xtts_finetune.stages.process import begin_process

    begin_process()
    try:
        size = None if vram is None else parsed_size(vram)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--vram") from None
    wanted = load_params(params)  # what is wrong is told before torch and TTS load
    from xtts_finetune.planning.command import Request, plan_lines

    for line in plan_lines(Workspace.here(), Request(wanted, size, tokens_per_second)):
        typer.echo(as_typed(line))


@app.command()
def sync() -> None:
    """Deliver to MLflow what waits for it: points of the curves, figures, a model to be registered.

    Training and evaluation never wait for an MLflow server (tracking.uri in params.yaml) that is down or hangs: what
    it did not take is kept in work/, and every next stage tries again. This command delivers it now. `status` shows
    how much waits. Nothing is stored twice, also when it is stopped and typed again.
    """
    from xtts_finetune.ops.sync import sync_lines

    for line in sync_lines(Workspace.here()):
        typer.echo(as_typed(line))


@app.command()
def join() -> None:
    """Let this machine take part in a training that runs on another one.

    There `dvc repro` runs, with `launch.nodes` and `launch.rendezvous` in params.yaml; here the same checkout,
    environment and prepared/ must lie, on a shared disk or as a copy: else it is refused. Where to meet is read from
    params.yaml, or from the environment's XTTS_FINETUNE_RENDEZVOUS. A phase begins with the machines that come within
    half a minute; one that comes later is taken in when the leader has saved. When one is lost, the others go on.

    No result is written here. It ends when phase 2 is trained, or the training stops. The machines trust each other,
    and everybody who can reach them: use a network of your own.
    """
    from xtts_finetune.stages.process import begin_process

    begin_process()
    from xtts_finetune.stages.join import join as joined

    for line in joined(Workspace.here()):
        typer.echo(as_typed(line))
