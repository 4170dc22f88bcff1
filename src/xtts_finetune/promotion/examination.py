"""Two versions held against each other: each is fetched once, measured, and heard."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.core.params import Params, PromotionParams
from xtts_finetune.dvcio.outs import data_digest
from xtts_finetune.measures.measured import Measures
from xtts_finetune.measures.paired import compare
from xtts_finetune.promotion.bundles import bundle
from xtts_finetune.promotion.figures import Figures, NotMeasured, NotThere, as_evaluated, measure, reasons
from xtts_finetune.promotion.gate import loss_rules, not_measured
from xtts_finetune.promotion.hearing import OF_BASE, Hearing, rule_of_base, rules_of
from xtts_finetune.tracking.promotions import Rule
from xtts_finetune.tracking.registry import DATA_TAG, Version
from xtts_finetune.tracking.versions import Versions

Found = TypeVar("Found")
_SPLIT_TAG = "split_digest"
_UNASKED = "was not asked for"


@dataclass(frozen=True)
class Examination:
    """What the rules found, and what to know of it."""

    rules: list[Rule]
    how: str  # where the figures come from
    beside_base: list[Rule]  # the candidate's speech beside that of the base, of which one rule is asked for
    doubts: list[str]  # whether what was said or measured was held from both, and why the base was not heard


@dataclass(frozen=True)
class _Seen:
    """Of one version, or why not."""

    figures: Figures | NotMeasured
    speech: list[Measures] | NotMeasured
    base: list[Measures] | NotMeasured


def examine(
    workspace: Workspace, params: Params, registry: Versions, candidate: Version, champion: Version
) -> Examination:
    """Apply all rules of params.yaml; what cannot be measured does not pass, but for a base that is not here.

    Raises:
        UserError: by these parameters nothing could pass.
    """
    evaluated = as_evaluated(candidate, champion)
    steps = _Steps(workspace, params, registry, not evaluated, _planned(workspace, params.promotion))
    seen = [steps.seen(version, with_base=version is candidate) for version in (candidate, champion)]
    figures = evaluated or _both(*(each.figures for each in seen))
    if isinstance(figures, NotMeasured):
        rules = [not_measured(name, str(figures)) for name in ("eval Mel CE", "eval Text CE")]
    else:
        rules = loss_rules(*figures, params.promotion)
    beside_base = list[Rule]()
    doubts = [*_doubts(workspace, [candidate, champion])] if steps.needs_files else []
    if params.promotion.sentences:
        speech, base = _both(*(each.speech for each in seen)), _both(seen[0].speech, seen[0].base)
        rules += (
            [not_measured("speech", str(speech))] if isinstance(speech, NotMeasured) else rules_of(compare(*speech))
        )
        if not isinstance(base, NotMeasured):
            beside_base = rules_of(compare(*base))
            rules.append(rule_of_base(beside_base))
        elif isinstance(base, NotThere) or isinstance(seen[0].speech, NotMeasured):  # of which a rule has failed
            doubts.append(f"the base was not heard: {base}")
        else:
            rules.append(not_measured(OF_BASE, str(base)))
    how = "as evaluated, on the same eval split" if evaluated else "both measured now, on the eval split in prepared/"
    return Examination(rules, how, beside_base, doubts)


def fails_already(params: Params, candidate: Version, champion: Version) -> bool:
    """Whether what their evaluations measured is enough to tell that the candidate does not pass."""
    evaluated = as_evaluated(candidate, champion)
    return evaluated is not None and not all(rule.passed for rule in loss_rules(*evaluated, params.promotion))


@dataclass(frozen=True)
class _Steps:
    """What is to be found of each version."""

    workspace: Workspace
    params: Params
    registry: Versions
    measures: bool  # its figures
    hearing: Hearing | NotMeasured

    @property
    def needs_files(self) -> bool:
        return self.measures or isinstance(self.hearing, Hearing)

    def seen(self, version: Version, with_base: bool) -> _Seen:
        if not self.measures and isinstance(self.hearing, NotMeasured):
            return _Seen(NotMeasured(_UNASKED), self.hearing, self.hearing)
        try:
            with bundle(self.workspace, self.params, self.registry, version) as folder:
                return self._seen(folder, f"version {version.version}", with_base)
        except UserError as error:
            gone = NotMeasured(reasons(error))
            return _Seen(gone, gone, gone)

    def _seen(self, folder: Path, name: str, with_base: bool) -> _Seen:
        hearing = self.hearing
        figures = _or_why(lambda: measure(self.workspace, folder, name)) if self.measures else NotMeasured(_UNASKED)
        if isinstance(hearing, NotMeasured):
            return _Seen(figures, hearing, hearing)
        speech = _or_why(lambda: hearing.of(folder, name))
        base: list[Measures] | NotMeasured = NotMeasured(_UNASKED)
        if with_base and not isinstance(speech, NotMeasured):
            base = _or_why(lambda: hearing.of(folder, f"the base of {name}", is_tuned=False))
        return _Seen(figures, speech, base)


def _planned(workspace: Workspace, params: PromotionParams) -> Hearing | NotMeasured:
    """Raises UserError: by these parameters nothing could pass."""
    if not params.sentences:
        return NotMeasured(_UNASKED)
    try:
        return Hearing.planned(workspace, params)
    except NotMeasured as why:
        return why


def _or_why(step: Callable[[], Found]) -> Found | NotMeasured:
    try:
        return step()
    except NotMeasured as why:
        return why
    except UserError as error:
        return NotMeasured(reasons(error))


def _both(ours: Found | NotMeasured, theirs: Found | NotMeasured) -> tuple[Found, Found] | NotMeasured:
    """What was found of both, or why it was not of one."""
    if isinstance(ours, NotMeasured):
        return ours
    return theirs if isinstance(theirs, NotMeasured) else (ours, theirs)


def _doubts(workspace: Workspace, versions: list[Version]) -> Iterator[str]:
    """Of other recordings another eval split is drawn: what is held here may have been trained on there."""
    report = read_json(workspace.dataset_report) if workspace.dataset_report.is_file() else {}
    here = {DATA_TAG: data_digest(workspace), _SPLIT_TAG: report.get("split_digest")}
    for version in versions:
        if any(version.tags.get(tag) != told for tag, told in here.items()):
            why = "its recordings were others, or were divided otherwise"
            yield f"version {version.version} may have been trained on some of the eval split in prepared/: {why}"
