"""What can be told of where a model comes from, by what lies in the workspace; what cannot be told stays None."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from xtts_finetune.cards.data_card import FEATURES_DIGEST
from xtts_finetune.cards.lineage import Base, Data, Figures, Hardware, Lineage, Model, Run, Stage
from xtts_finetune.checkpoints.identity import Record
from xtts_finetune.core.done import summary_of
from xtts_finetune.core.files import read_json, sha256_file, sha256_json
from xtts_finetune.core.layout import BASE_INFO, BUNDLE_BASE, FEATURES, MODEL_CARD, PHASES, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.core.processes import cores
from xtts_finetune.dvcio.cache import named_dependencies, named_entries, named_params
from xtts_finetune.dvcio.outs import is_committed, out_path
from xtts_finetune.model.published import LICENCE, PUBLISHED
from xtts_finetune.tracking.environment import environment_tags

MEASURED, INTERVALS = "weights", "intervals"  # entries of reports/evaluation.json: of which weights, and how sure
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
_OF_GIT = {"git_commit", "git_dirty", "mlflow.source.git.commit"}


def of_evaluation(
    workspace: Workspace, params: Params, model: Model, evaluation: Mapping[str, Any], key: str
) -> Lineage:
    """Of a phase's best as it is evaluated here and now.

    Args:
        model: as it is registered.
        evaluation: what reports/evaluation.json says.
        key: of the evaluation's run.
    """
    own = of_phase(workspace, model, params.base, params.prepare.language)
    tags = {name: None if text == "unknown" else text for name, text in environment_tags(workspace.root).items()}
    dirty = tags["git_dirty"]
    lock = workspace.requirements
    return own.model_copy(
        update={
            "git_commit": tags["git_commit"],
            "git_dirty": None if dirty is None else dirty == "true",
            "params": params.model_dump(mode="json", exclude={"tracking", "notify"}),  # which may hold a password
            "requirements_sha256": sha256_file(lock) if lock.is_file() else None,
            "hardware": _hardware(),
            "software": {name: text for name, text in tags.items() if name not in _OF_GIT},
            "runs": {**own.runs, "evaluate": Run(key=key)},
            "figures": _measured(evaluation),
        }
    )


def of_phase(workspace: Workspace, model: Model, base: str, language: str) -> Lineage:
    """Of the best of a phase, which was trained with what is prepared here."""
    phase = next(phase for phase in PHASES if phase == model.phase)
    runs = _runs(workspace, phase)
    own = runs[phase]
    return _with_prepared(
        workspace,
        model,
        base,
        language,
        seed=None if own is None or own.trajectory is None else own.trajectory.get("seed"),
        dvc=_stages(workspace, phase),
        runs=runs,
        figures=_reported(workspace, model),
    )


def of_step(workspace: Workspace, model: Model, base: str, language: str, record: Record) -> Lineage:
    """Of a state, or best weights, that were trained with what is prepared here."""
    run = _run(record)
    seed = run.trajectory and run.trajectory.get("seed")
    return _with_prepared(workspace, model, base, language, seed=seed, runs={model.phase: run})


def data_card_of(workspace: Workspace) -> Path | None:
    """Of the recordings in prepared/; None: there is none, or it is of others."""
    try:
        listed = read_json(workspace.data_card)["distribution"]
        digests = {entry.get("sha256") for entry in listed}
        is_of_these = digests >= set(read_json(workspace.prepared / FEATURES).values())
    except _UNREADABLE:
        return None
    return workspace.data_card if is_of_these else None


def _with_prepared(workspace: Workspace, model: Model, base: str, language: str, **others: Any) -> Lineage:
    opened = base_of(workspace.prepared / BUNDLE_BASE, base)
    return Lineage(model=model, base=opened, language=language, data=_data(workspace), **others)


def base_of(folder: Path, name: str) -> Base:
    """By what prepared/base/, or a bundle's base/, says of itself.

    Args:
        name: as params.yaml has, or had, it.
    """
    try:
        digest = str(read_json(folder / BASE_INFO)["gpt"]["sha256"])
    except _UNREADABLE:
        return Base(name=name)
    return Base(name=name, sha256=digest, licence=LICENCE if digest == PUBLISHED["model.pth"] else None)


def _data(workspace: Workspace) -> Data | None:
    """What `prepare` said of what lies in prepared/; None where it is not known to be about that."""
    try:
        report = read_json(workspace.dataset_report)
        if report[FEATURES_DIGEST] != sha256_json(read_json(workspace.prepared / FEATURES)):
            return None
        names = ("clips", "hours", "languages", "rejected_by_kind", "split_digest", "consent")
        told = {name: report[name] for name in names}
        return Data.model_validate({**told, "speakers": len(report["speakers"])}, strict=False)
    except _UNREADABLE:  # pydantic's error is a ValueError
        return None


def _stages(workspace: Workspace, phase: PhaseName) -> dict[str, Stage | None] | None:
    """What dvc.lock says of the stages that made models/<phase>: of each as far as it left what the next one used."""
    if not is_committed(workspace, phase):
        return None
    outs = {path: str(entry["md5"]) for path, entry in named_entries(workspace).items()}
    used = named_dependencies(workspace, f"train_{phase}")
    prepared = out_path(workspace, workspace.prepared)
    before = {"prepare": [prepared]}
    if phase == "phase2":
        before["train_phase1"] = [out_path(workspace, workspace.model("phase1"))]
    stages: dict[str, Stage | None] = {
        name: _stage(workspace, name, outs, left) if all(outs.get(out) == used.get(out) for out in left) else None
        for name, left in before.items()
    }
    left = [out_path(workspace, place(phase)) for place in (workspace.model, workspace.checkpoints)]
    return {**stages, f"train_{phase}": _stage(workspace, f"train_{phase}", outs, left)}


def _stage(workspace: Workspace, name: str, outs: Mapping[str, str], left: list[str]) -> Stage:
    return Stage(
        deps=named_dependencies(workspace, name),
        outs={out: outs[out] for out in left if out in outs},
        params=named_params(workspace, name),
    )


def _runs(workspace: Workspace, phase: PhaseName) -> dict[str, Run | None]:
    """The run of a phase, and where it is phase 2 also that of the phase 1 that it began with."""
    own = _finished(workspace, phase)
    if phase == "phase1":
        return {phase: own}
    start = own.trajectory and own.trajectory.get("initial_weights") if own else None
    first = _finished(workspace, "phase1") if start is not None and start == _digest(workspace, "phase1") else None
    return {"phase1": first, phase: own}


def _finished(workspace: Workspace, phase: PhaseName) -> Run | None:
    """The run that models/<phase> is the best of; None where its states, and what they say of it, are gone."""
    try:
        card = read_json(workspace.model(phase) / MODEL_CARD)
        for folder in (workspace.checkpoints(phase), workspace.work(phase)):
            summary = summary_of(folder)
            if summary and all(card.get(name) == figure for name, figure in summary["figures"].items()):
                return _run(Record.from_json(summary))
    except _UNREADABLE:
        return None
    return None


def _run(record: Record) -> Run:
    return Run(key=record.identity.key, trajectory=record.identity.trajectory, code=record.code or None)


def _digest(workspace: Workspace, phase: PhaseName) -> str | None:
    try:
        return str(read_json(workspace.model(phase) / MODEL_CARD)["sha256"])
    except _UNREADABLE:
        return None


def _reported(workspace: Workspace, model: Model) -> dict[str, Figures]:
    """By reports/evaluation.json; nothing where it is of other weights."""
    try:
        content: dict[str, Any] = read_json(workspace.evaluation)
        return _measured(content) if content[MEASURED][model.phase] == model.sha256 else {}
    except _UNREADABLE:
        return {}


def _measured(evaluation: Mapping[str, Any]) -> dict[str, Figures]:
    found = {}
    for name in ("base", *PHASES):
        sure = evaluation[INTERVALS][name]
        found[name] = Figures(
            mel_ce=evaluation[name]["mel_ce"],
            text_ce=evaluation[name]["text_ce"],
            mel_ce_interval=sure["mel_ce"] and tuple(sure["mel_ce"]),
            text_ce_interval=sure["text_ce"] and tuple(sure["text_ce"]),
            clips=sure["clips"],
        )
    return found


def _hardware() -> Hardware:
    from xtts_finetune.model.device import device_in_words  # loads torch

    device = device_in_words().removeprefix("on ").removeprefix("the ").partition(" (")[0]
    return Hardware(device=device, cores=cores(), memory_bytes=psutil.virtual_memory().total)
