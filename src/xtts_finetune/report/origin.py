"""Whose figures and whose version lie here: reports come with git, models with DVC, and parameters from the editor."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import MODEL_CARD, PHASES, PhaseName, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.dvcio.cache import named_dependencies, named_entries, named_outs, named_params
from xtts_finetune.tracking.outbox import TRAINED
from xtts_finetune.tracking.promotions import Log
from xtts_finetune.tracking.receipt import IN_QUEUE, Beside, address_digest
from xtts_finetune.tracking.registered import Known, known
from xtts_finetune.tracking.registry import CHAMPION

OURS = "of this workspace's run"


def whose_figures(workspace: Workspace, params: Params | None) -> str | None:
    """Whose the metrics in reports/ are: `OURS`, or why they are not; None where there are none."""
    shown = [phase for phase in PHASES if workspace.metrics(phase).exists()]
    if not shown:
        return None
    cards = {phase: model_card(workspace, phase) for phase in shown}
    if not any(cards.values()):
        return "as committed with git: nothing was trained in this checkout"
    others = [phase for phase, card in cards.items() if not _tells(card, read_json(workspace.metrics(phase)))]
    if others:
        models = " and ".join(f"models/{phase}" for phase in others)
        return f"of another run than {models}: bring back what dvc.lock names with dvc checkout, or dvc repro"
    changes = [
        *_other_data(workspace),
        *_other_models(workspace, [f"train_{phase}" for phase in shown]),
        *(_other_params(workspace, params, shown) if params else ()),
    ]
    return f"of an earlier run, before {'; '.join(dict.fromkeys(changes))}" if changes else OURS


def model_card(workspace: Workspace, phase: PhaseName) -> dict[str, Any] | None:
    """What a phase's exported best says of itself; None if there is none."""
    card = workspace.model(phase) / MODEL_CARD
    content: dict[str, Any] | None = read_json(card) if card.is_file() else None
    return content


def _tells(card: dict[str, Any] | None, figures: dict[str, Any]) -> bool:
    """Whether a model says these figures of itself."""
    return card is not None and all(card.get(key) == figures[key] for key in ("step", "eval"))


def _other_data(workspace: Workspace) -> Iterator[str]:
    used, outs = named_dependencies(workspace, "train_phase1"), named_entries(workspace)
    if used.get("prepared") != outs.get("prepared", {}).get("md5"):
        yield "other clips were prepared"
    added = named_outs(workspace).get("data")
    if added and added != named_dependencies(workspace, "prepare").get("data", added):
        yield "data.dvc named other recordings"


def is_evaluated(workspace: Workspace) -> bool:
    """Whether the evaluation is of the models that the phases have left last."""
    return workspace.evaluation.exists() and not any(_other_models(workspace, ["evaluate"]))


def _other_models(workspace: Workspace, stages: list[str]) -> Iterator[str]:
    """Which of the models that the stages ran on are others than those that the phases have left since."""
    outs = named_outs(workspace)
    for stage in stages:
        for path, used in named_dependencies(workspace, stage).items():
            if path in outs and path.startswith("models/") and outs[path] != used:
                yield f"{path} was trained again"


def _other_params(workspace: Workspace, params: Params, phases: list[PhaseName]) -> Iterator[str]:
    """What stands in params.yaml that the phases were not trained with."""
    now = flat(params.model_dump())
    before: dict[str, Any] = {}
    for stage in ("prepare", *(f"train_{phase}" for phase in phases)):
        before |= flat(named_params(workspace, stage))
    yield from (f"{key} {old} → {now[key]}" for key, old in before.items() if key in now and now[key] != old)


def flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their path, e.g. train_phase1.lr."""
    flat: dict[str, Any] = {}
    for name, value in params.items():
        flat |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def whose_version(workspace: Workspace, params: Params | None) -> str:
    """What is registered, and whether it is what lies in models/.

    Args:
        params: None: params.yaml cannot be read.
    """
    if not workspace.registration.exists():
        return "nothing yet"
    receipt: dict[str, Any] = read_json(workspace.registration)
    digest = receipt.get("model_sha256")
    if receipt.get("pending"):
        return "not yet: it waits for MLflow (xtts-finetune sync)"
    if receipt.get(IN_QUEUE):
        return "nothing: an experiment of DVC's queue registers nothing"
    version, beside = f"{receipt['name']} version {receipt['version']}", Beside.read(workspace, receipt)
    trained = receipt.get(TRAINED)  # of a model that was put together
    here = [phase for phase in PHASES if (card := model_card(workspace, phase)) and card["sha256"] in (digest, trained)]
    if params and _is_elsewhere(beside, receipt, params):
        there = " (dvc repro -s -f evaluate registers it there, too)" if here else ""
        return f"{version}, under another address or name than params.yaml has now{there}"
    own = _in_own_database(workspace, params, receipt)
    if beside.is_deleted or _is_gone(own, receipt):
        again = "dvc repro -s -f evaluate registers its weights again" if here else "its weights are not in models/"
        return f"nothing any more: {version} was deleted ({again})"
    if digest is not None and not here:
        return f"{version} is of another run: those weights are not in models/"
    what = "the whole network of" if trained else "the weights of"
    names = _aliases_now(workspace, params, receipt, beside)
    if own is None:
        names.append("as far as this clone knows" + _of_the_log(workspace))
    told = f" ({', '.join(names)})" if names else ""
    return f"{version}{told}" + (f", {what} models/{here[0]}" if here else "")


def is_to_be_promoted(workspace: Workspace, params: Params) -> bool:
    """Whether what is registered is not the champion, as far as this checkout knows."""
    receipt = read_json(workspace.registration) if workspace.registration.exists() else {}
    if "version" not in receipt:
        return False
    beside = Beside.read(workspace, receipt)
    if beside.is_deleted or _is_elsewhere(beside, receipt, params):
        return False
    if _is_gone(_in_own_database(workspace, params, receipt), receipt):
        return False
    return CHAMPION not in _aliases_now(workspace, params, receipt, beside)


def _is_elsewhere(beside: Beside, receipt: dict[str, Any], params: Params) -> bool:
    """Whether params.yaml names another registry, or another model in it, than the receipt is of."""
    is_moved = beside.address not in ("", address_digest(params.tracking.uri))
    return is_moved or receipt["name"] != params.registry.model_name


def champion_weights(workspace: Workspace, params: Params) -> str | None:
    """SHA-256 of the champion's weights, as far as this checkout knows; None: there is none, or it does not."""
    if not workspace.registration.exists():
        return None
    receipt = read_json(workspace.registration)
    return (
        None if "version" not in receipt else _champion(workspace, params, receipt, Beside.read(workspace, receipt))[1]
    )


def _in_own_database(workspace: Workspace, params: Params | None, receipt: dict[str, Any]) -> Known | None:
    """What MLflow knows of the model, where its store is this workspace's own, and can be read."""
    is_own = params is None or params.tracking.uri is None
    return known(workspace, receipt["name"]) if is_own else None


def _is_gone(own: Known | None, receipt: dict[str, Any]) -> bool:
    """Whether MLflow has no such version any more, where that is known."""
    return own is not None and receipt["version"] not in own.versions


def _of_the_log(workspace: Workspace) -> str:
    try:
        Log.read(workspace.promotions)
    except UserError:
        return ", whose log of promotions is damaged (xtts-finetune history)"
    return ""


def _aliases_now(workspace: Workspace, params: Params | None, receipt: dict[str, Any], beside: Beside) -> list[str]:
    """As MLflow has them; of a server, as it was registered, but for what this checkout's log knows of since."""
    own = _in_own_database(workspace, params, receipt)
    if own is not None:
        number, digest = receipt["version"], receipt.get("model_sha256")  # older receipts have none
        named = own.aliases.items()
        return sorted(name for name, each in named if each.version == number and digest in (None, each.sha256))
    found = [alias for alias in receipt["aliases"] if alias != CHAMPION]
    champion, weights = _champion(workspace, params, receipt, beside)
    is_champion = champion == receipt["version"] and weights in (None, receipt["model_sha256"])
    return [*found, *([CHAMPION] if is_champion else [])]


def _champion(
    workspace: Workspace, params: Params | None, receipt: dict[str, Any], beside: Beside
) -> tuple[int | None, str | None]:
    """Its version, and the SHA-256 of its weights, where that is known."""
    own = _in_own_database(workspace, params, receipt)
    if own is not None:
        champion = own.aliases.get(CHAMPION)
        return (champion.version, champion.sha256) if champion else (None, None)
    number, weights = receipt["champion"], None
    if number == receipt["version"]:
        weights = receipt["model_sha256"]
    with suppress(UserError):
        for entry in Log.read(workspace.promotions).entries:
            is_own = entry.model == receipt["name"] and (not beside.registry or entry.registry in ("", beside.registry))
            goes_on = entry.before in (None, number) and (not weights or entry.before_sha256 in ("", weights))
            if is_own and goes_on:
                number, weights = entry.champion, entry.champion_sha256
    return number, weights
