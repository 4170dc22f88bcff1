"""A report as one page for a browser, which needs no network: reports/index.html."""

import base64
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.disk import shown
from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import read_json_object
from xtts_finetune.core.layout import PHASES, SENTENCES, Workspace, spoken_in
from xtts_finetune.report import charts
from xtts_finetune.report.content import Report
from xtts_finetune.report.progress import COLUMNS, cells, rates, thinned
from xtts_finetune.report.text import (
    clips_in_words,
    figures_of,
    phase_in_words,
    rejected_of,
    room_in_words,
    state_in_words,
    told_of,
)
from xtts_finetune.tracking.journal import Happening
from xtts_finetune.tracking.logged_model import WEIGHTS_TAG
from xtts_finetune.tracking.promotions import Log

_VOICES = ("recording", "base", *PHASES)
_BITS = 0.4  # of Vorbis, from 0 (best) to 1: speech needs no more
_MOST_EVALUATIONS = 200  # the first, and the last ones
_MOST_SENTENCES = 12  # of a hundred the page would have a hundred megabytes
_MOST_STEPS = 6  # at which a phase in training spoke: the first, and the last ones


def page_of(workspace: Workspace, report: Report, happenings: Sequence[Happening]) -> str:
    """All of it, in HTML."""
    from jinja2 import Environment, PackageLoader

    curves, disk = charts.curves(report, happenings), charts.disk(happenings)
    template = Environment(loader=PackageLoader("xtts_finetune", "report"), autoescape=True).get_template(_TEMPLATE)
    return template.render(
        title=f"{workspace.root.resolve().name}: {state_in_words(report)}",
        report=report,
        state=_capital(state_in_words(report)),
        typed=as_typed,
        curves=_embedded(curves),
        disk=_embedded(disk),
        script=charts.script() if curves or disk else "",
        models=list(_models(report)),
        lines=list(_lines(report)),
        columns=[name.strip() for name in COLUMNS],
        evaluations=list(_evaluations(report)),
        voices=_VOICES,
        sounds=list(_sounds(workspace)),
        spoken=list(_spoken(workspace)),
        **_measures(workspace),
        **_parameters(report),
        room=as_typed(room_in_words(report.disk)),
        held=[(part, shown(size)) for part, size in report.disk.held.items()],
        ways=list(_ways(report)),
        **_data(report),
    )


_TEMPLATE = "page.html.j2"


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _embedded(spec: dict[str, Any] | None) -> str | None:
    """JSON that cannot end the element that it stands in."""
    return None if spec is None else json.dumps(spec).replace("<", "\\u003c")


def _models(report: Report) -> Iterator[Sequence[str]]:
    bests = [("base", report.base), *((each.name, each.best) for each in report.phases if each.state == "done")]
    for name, best in bests:
        if best:
            yield [name, *figures_of(best)]


def _evaluations(report: Report) -> Iterator[tuple[str, list[list[str]]]]:
    for phase in report.phases:
        if phase.evaluations:
            yield phase.name, list(map(cells, thinned(phase.evaluations, _MOST_EVALUATIONS)))


def _lines(report: Report) -> Iterator[str]:
    yield from (f"{each.name}: {as_typed(phase_in_words(each))}" for each in report.phases if each.state != "done")
    phase = told_of(report)
    if phase and phase.prospect:
        yield from (f"{phase.name}: {line}" for line in phase.prospect.lines)
    yield from (line.strip().removeprefix("rates").strip() for line in rates(report.phases))
    if report.whose:
        yield f"these figures are {report.whose}"
    yield f"registered: {as_typed(report.registered)}"


def _sounds(workspace: Workspace) -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
    """Of each sentence what base, phases and the recording say, as far as it is there."""
    for row in _sentences(workspace.samples)[-_MOST_SENTENCES:]:  # the clip, of which there is a recording, is the last
        found = {}
        for voice in _VOICES:
            if sound := _sound(workspace.samples / voice / Path(row["file"]).name, row["text"]):
                found[voice] = sound
        yield row["text"], found


def _spoken(workspace: Workspace) -> Iterator[tuple[str, list[str], list[tuple[str, dict[str, dict[str, str]]]]]]:
    """Of each phase in training the steps at which it spoke, and what it said then by sentence and step."""
    for phase in PHASES:
        folders = _spoken_at(workspace.work(phase))
        said: dict[str, dict[str, dict[str, str]]] = {}
        for step, folder in folders.items():
            for row in _sentences(folder)[:_MOST_SENTENCES]:
                if sound := _sound(folder / Path(row["file"]).name, row["text"]):
                    said.setdefault(row["text"], {})[step] = sound
        if said:
            yield phase, list(folders), list(said.items())


def _spoken_at(run: Path) -> dict[str, Path]:
    """By step, in their order."""
    return dict(thinned([(f"step {step:,}", folder) for step, folder in spoken_in(run).items()], _MOST_STEPS))


def _sentences(samples: Path) -> list[dict[str, str]]:
    """Which file says what, where that is there and can be read."""
    try:
        rows = list(csv.DictReader(io.StringIO((samples / SENTENCES).read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return [row for row in rows if row.get("file") and row.get("text")]


def _sound(file: Path, text: str) -> dict[str, str] | None:
    """A WAV as something that a page can hold, and how long it is; None where it is not there, or damaged."""
    import soundfile

    try:
        samples, rate = soundfile.read(file)
    except soundfile.LibsndfileError:
        return None
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, rate, format="OGG", subtype="VORBIS", compression_level=_BITS)
    seconds = len(samples) / rate
    pace = f", {len(text) / seconds:.0f} letters a second" if seconds else ""
    source = f"data:audio/ogg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    return {"source": source, "words": f"{seconds:.1f} s{pace}"}


def _measures(workspace: Workspace) -> dict[str, Any]:
    """What the newest promotion to the version that is registered here measured."""
    receipt = read_json_object(workspace.registration)
    of_it = receipt.get("name"), receipt.get("version"), receipt.get(WEIGHTS_TAG)
    try:
        entries = [entry for entry in Log.read(workspace.promotions).entries if entry.rules]
    except UserError:  # `history` says what is wrong with it
        entries = []
    own = [entry for entry in entries if (entry.model, entry.champion, entry.champion_sha256) == of_it]
    if not own:
        return {"measures": [], "measures_of": ""}
    newest = own[-1]
    rows = [
        (rule.name, _short(rule.candidate), _short(rule.champion), rule.demand, "yes" if rule.passed else "no")
        for rule in newest.rules
    ]
    return {"measures": rows, "measures_of": f"As version {newest.champion} was compared, {newest.time}"}


def _short(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.4g}"


def _parameters(report: Report) -> dict[str, Any]:
    names = list(dict.fromkeys(name.partition(".")[2] for name in report.settings if "." in name))
    rows = [(name, *(report.settings.get(f"train_{phase}.{name}", "") for phase in PHASES)) for name in names]
    shared = ", ".join(f"{name}: {value}" for name, value in report.settings.items() if "." not in name)
    changes = {"the last commit": report.changed_since_commit, "the champion's": report.changed_since_champion or []}
    return {"parameters": rows, "shared": shared, "changes": [each for each in changes.items() if each[1]]}


def _ways(report: Report) -> Iterator[tuple[str, str]]:
    yield from ((as_typed(way.command), shown(way.frees_bytes)) for way in report.disk.ways if way.frees_bytes)
    yield from ((as_typed(each.command), f"{shown(each.bytes)}: {each.words}") for each in report.parked)


def _data(report: Report) -> dict[str, Any]:
    data = report.data
    if data is None:
        return {"data": "", "rejected": [], "rejected_names": []}
    names, rows = rejected_of(data)
    return {"data": clips_in_words(data), "rejected": rows, "rejected_names": names}
