"""A report in Markdown, as git hosts show it: reports/status.md."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from xtts_finetune.core.disk import shown
from xtts_finetune.report.content import Phase, Report
from xtts_finetune.report.progress import COLUMNS, cells, rates, thinned
from xtts_finetune.report.text import (
    clips_in_words,
    figures_of,
    missing_in_words,
    phase_in_words,
    rejected_of,
    room_in_words,
    state_in_words,
    told_of,
)
from xtts_finetune.tracking.pace import in_words

_REJECTED = 20  # that are listed
_EVALUATIONS = 40


class Code(str):
    """Of ours, between backticks: it is taken as it is."""

    @classmethod
    def of(cls, text: str) -> Self:
        return cls(f"`{text}`")


def markdown_of(report: Report, picture: str | None) -> str:
    """All of it.

    Args:
        picture: of the curves: its file, beside the page; None: there is none.
    """
    sections = [
        ("", _head(report)),
        ("", [f"![Mel CE over steps]({picture})"] if picture else []),
        ("Figures", _figures(report)),
        ("What to expect", _prospects(report)),
        *((f"{phase.name}", _phase(phase)) for phase in report.phases if phase.evaluations),
        ("Parameters", _parameters(report)),
        ("Disk", _disk(report)),
        ("Recordings", _data(report)),
        ("MLflow", _mlflow(report)),
        ("Next", _next(report)),
    ]
    parts = [[*([f"## {title}", ""] if title else []), *lines, ""] for title, body in sections if (lines := list(body))]
    return "\n".join(line for part in parts for line in part)


def _head(report: Report) -> Iterator[str]:
    yield "# Stopped" if report.stopped else "# Where it stands"
    yield ""
    yield f"{_escaped(state_in_words(report)).capitalize()}. As of {report.at}."
    if report.stopped:
        yield from ["", *fenced(report.stopped)]
    if report.mistakes:
        yield from ["", *fenced(report.mistakes)]


def _figures(report: Report) -> Iterator[str]:
    rows = [("base", report.base)] if report.base else []
    rows += [(phase.name, phase.best) for phase in report.phases if phase.state == "done" and phase.best]
    lines = [[name, *figures_of(best)] for name, best in rows if best]
    if lines:
        yield from table(["model", "eval Mel CE", "eval Text CE", "(× 0.01)", "best at step"], lines)
        yield ""
    for phase in report.phases:
        if phase.state != "done":
            yield f"- {phase.name}: {_escaped(phase_in_words(phase))}"
    for name, target in report.target_mel_ce.items():
        if target is not None:
            missing = missing_in_words(report, target, name)
            yield f"- target Mel CE of {name}: {target:.3f}{f'; {missing}' if missing else ''}"
    if report.whose:
        yield f"- these figures are {_escaped(report.whose)}"
    yield f"- registered: {_escaped(report.registered)}"


def _prospects(report: Report) -> Iterator[str]:
    phase = told_of(report)
    if phase and phase.prospect:
        yield from (f"- {phase.name}: {line}" for line in phase.prospect.lines)
    yield from (f"- {line.strip().removeprefix('rates').strip()}" for line in rates(report.phases))
    for each in report.phases:
        times = [f"{each.seconds_per_step:.2g} s a step"] if each.seconds_per_step else []
        times += [f"{in_words(each.seconds_per_epoch)} an epoch"] if each.seconds_per_epoch else []
        times += [f"{in_words(each.seconds_left)} left"] if each.seconds_left else []
        if times:
            yield f"- {each.name}: {', '.join(times)}"
    if report.seconds_left:
        yield f"- {in_words(report.seconds_left)} of training are left in all"


def _phase(phase: Phase) -> Iterator[str]:
    end = f"Ended: {phase.why}. " if phase.state == "done" else ""
    skipped = f"{phase.steps_skipped} steps were skipped: not finite. " if phase.steps_skipped else ""
    yield f"{end}{skipped}Train Mel CE is of train clips, as many and as long, measured as the eval split is."
    yield ""
    yield from table(
        [name.strip() for name in COLUMNS], [cells(each) for each in thinned(phase.evaluations, _EVALUATIONS)]
    )
    if len(phase.evaluations) > _EVALUATIONS:
        yield from ["", f"the first, and the last {_EVALUATIONS - 1} of {len(phase.evaluations)} evaluations"]


def _parameters(report: Report) -> Iterator[str]:
    phases = sorted({name.partition(".")[0] for name in report.settings if "." in name})
    yield ", ".join(f"{name}: {value}" for name, value in report.settings.items() if "." not in name)
    yield ""
    names = list(dict.fromkeys(name.partition(".")[2] for name in report.settings if "." in name))
    rows = [[name, *(report.settings.get(f"{phase}.{name}", "") for phase in phases)] for name in names]
    yield from table(["", *phases], rows)
    changes = {"the last commit": report.changed_since_commit, "the champion's": report.changed_since_champion or []}
    for since, found in changes.items():
        if found:
            yield from ["", f"Changed since {since}:", "", *(f"- {_escaped(change)}" for change in found)]


def _disk(report: Report) -> Iterator[str]:
    yield _escaped(room_in_words(report.disk)) + "."
    if report.disk.held:
        yield ""
        yield from table(["part", "holds"], [[part, shown(size)] for part, size in report.disk.held.items()])
    ways = [[Code.of(way.command), shown(way.frees_bytes)] for way in report.disk.ways if way.frees_bytes]
    ways += [[Code.of(parked.command), f"{shown(parked.bytes)}: {_escaped(parked.words)}"] for parked in report.parked]
    if ways:
        yield from ["", *table(["to make room", "frees"], ways)]


def _data(report: Report) -> Iterator[str]:
    data = report.data
    if data is None:
        return
    yield _escaped(clips_in_words(data))
    if data.rejected:
        names, rows = rejected_of(data)
        yield from ["", *table(names, rows[:_REJECTED])]
        if len(data.rejected) > _REJECTED:
            yield from ["", f"and {len(data.rejected) - _REJECTED} more: reports/dataset.json"]


def _mlflow(report: Report) -> Iterator[str]:
    if report.mlflow.runs:
        yield f"It lacks {report.mlflow.points} points and {report.mlflow.models} models: `xtts-finetune sync`"
    yield from (_escaped(problem) for problem in report.mlflow.damaged)


def _next(report: Report) -> Iterator[str]:
    if report.next:
        yield from fenced("\n".join(f"{each.command:<28}  # {each.why}" for each in report.next))
    yield from (f"- {_escaped(remark)}" for remark in report.remarks)


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """As Markdown."""
    yield f"| {' | '.join(map(_escaped, names))} |"
    yield f"|{'---|' * len(names)}"
    yield from (f"| {' | '.join(map(_escaped, row))} |" for row in rows)


def fenced(text: str) -> list[str]:
    """As it stands, whatever is in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return [fence, *text.splitlines(), fence]


def _escaped(text: str) -> str:
    """Names from outside, as of clips, are no markup."""
    if isinstance(text, Code):
        return text
    for sign in "\\|<>[]*_":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")
