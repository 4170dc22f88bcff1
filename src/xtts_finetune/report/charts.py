"""Charts of a report, by Vega-Altair: pictures for Markdown, and specifications that a page draws by itself."""

import importlib.metadata
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_finetune.core.files import write_text
from xtts_finetune.report.content import Report
from xtts_finetune.report.progress import is_in_sight
from xtts_finetune.tracking.journal import Happening

if TYPE_CHECKING:
    import altair as alt

TRAIN, EVAL, AVERAGE, TARGET = "#4c78a8", "#e4572e", "#9467bd", "#3a9a3a"
INK = "#808080"  # on no background: read on a white page and on a dark one
_WIDTH, _HEIGHT = 620, 260
_KINDS = {"train clips": TRAIN, "eval": EVAL, "eval of the EMA": AVERAGE}
_MOST = 500  # points of a line
Values = list[dict[str, Any]]


def curves(report: Report, happenings: Sequence[Happening]) -> dict[str, Any] | None:
    """Mel CE of both phases over steps, with target, best, stops and resumes; None where nothing was evaluated."""
    points = list(_points(report))
    if not points:
        return None
    import altair as alt

    steps, seen = [point["step"] for point in points], {point["what"] for point in points}
    there = [kind for kind in _KINDS if kind in seen]
    scale = alt.Scale(domain=[min(steps), max(*steps, min(steps) + 1)], nice=False)
    over = alt.X("step:Q", title="step", scale=scale)
    colour = alt.Color(
        "what:N",
        title=None,
        scale=alt.Scale(domain=there, range=[_KINDS[kind] for kind in there]),
        legend=alt.Legend(orient="bottom"),
    )
    told = [alt.Tooltip(f"{name}:N") for name in ("phase", "what", "step", "epoch", "Mel CE")]
    lines = (
        alt.Chart(_data(points), description="Mel CE of train and eval clips over the steps of both phases")
        .mark_line(point=True)
        .encode(
            x=over,
            y=alt.Y("Mel CE:Q", title="Mel CE, nats per token", scale=alt.Scale(zero=False)),
            color=colour,
            strokeDash=alt.StrokeDash("phase:N", title=None, legend=None),
            detail="run:N",
            tooltip=told,
        )
    )
    return _finished(alt.layer(lines, *_marks(report, happenings, (min(steps), max(steps)))))


def disk(happenings: Sequence[Happening]) -> dict[str, Any] | None:
    """What was free over time; None where that was not seen twice."""
    seen = [each for each in happenings if each.free_bytes is not None and each.kind != "planned"]
    if len(seen) < 2:
        return None
    import altair as alt

    values: Values = [
        {
            "time": round(each.time * 1000),
            "free": (each.free_bytes or 0) / 1e9,
            "what": f"{each.stage} {each.kind}" + (f" at step {each.step}" if each.step is not None else ""),
        }
        for each in seen
    ]
    chart = (
        alt.Chart(_data(values), description="Free room on the disk over time")
        .mark_line(point=True, color=TRAIN, interpolate="step-after")
        .encode(
            x=alt.X("time:T", title=None),
            y=alt.Y("free:Q", title="free, GB", scale=alt.Scale(zero=True)),
            tooltip=[alt.Tooltip("time:T", format="%Y-%m-%d %H:%M:%S"), "what:N", alt.Tooltip("free:Q", format=".2f")],
        )
    )
    return _finished(chart, height=140)


def experiments(labels: Sequence[str], curves: Values, panels: Mapping[str, Values]) -> dict[str, Any]:
    """The curves of experiments, and what each came to by the numbers that differ between them.

    Args:
        labels: of the experiments, the best first.
        curves: label, phase, step and Mel CE of each evaluation.
        panels: of each setting: label, setting and Mel CE of each experiment.
    """
    import altair as alt

    colour = alt.Color("label:N", title=None, sort=labels, scale=alt.Scale(scheme="tableau20"))
    y = alt.Y("Mel CE:Q", title="eval Mel CE, nats per token", scale=alt.Scale(zero=False))
    lines = alt.Chart(_data(curves)).mark_line(point=True)
    over = lines.encode(x=alt.X("step:Q", title="step"), y=y, color=colour, detail="phase:N")
    charts = [over.properties(width=_WIDTH, height=_HEIGHT)]
    for name, ends in panels.items():
        figures = [end["setting"] for end in ends]
        is_wide = min(figures) > 0 and max(figures) >= 10 * min(figures)
        scale = alt.Scale(type="log" if is_wide else "linear", zero=False, padding=20)
        x = alt.X("setting:Q", title=name, scale=scale)
        dots = alt.Chart(_data(ends)).mark_point(filled=True, size=90, opacity=1).encode(x=x, y=y, color=colour)
        charts.append(dots.properties(width=_WIDTH, height=_HEIGHT // 2))
    return _styled(alt.vconcat(*charts))


def picture(chart: dict[str, Any]) -> str:
    """A chart as SVG; no network, no browser."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(json.dumps(chart)))


SCRIPT = Path(sys.prefix, "share", "xtts-finetune", "vega.js")  # .dvc/plots.html names it, too


def script() -> str:
    """What draws charts in a page, as `vegaEmbed`: Vega, Vega-Lite and Vega-Embed, a megabyte.

    It takes seconds to make, and is kept in the environment, which `make setup` does; of another version it is not.
    """
    mark = f"/* {importlib.metadata.version('vl-convert-python')} */\n"
    with suppress(OSError):
        kept = SCRIPT.read_text(encoding="utf-8")
        if kept.startswith(mark):
            return kept
    import vl_convert

    made = mark + str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    with suppress(OSError):  # an environment that is not one's own
        write_text(SCRIPT, made)
    return made


def _points(report: Report) -> Iterable[dict[str, Any]]:
    for phase in report.phases:
        every = max(1, -(-len(phase.evaluations) // _MOST))
        for each in [*phase.evaluations[::every], *phase.evaluations[-1:]]:
            figures = {
                "train clips": each.train_mel_ce,
                "eval": each.eval_mel_ce,
                "eval of the EMA": each.eval_ema_mel_ce,
            }
            for what, figure in figures.items():
                if figure is not None and math.isfinite(figure):
                    run = f"{phase.name} {what}"
                    point = {
                        "step": each.step,
                        "epoch": round(each.epoch, 2),
                        "what": what,
                        "phase": phase.name,
                        "run": run,
                    }
                    yield {**point, "Mel CE": round(figure, 4)}


def _marks(report: Report, happenings: Iterable[Happening], steps: tuple[int, int]) -> "list[alt.Chart]":
    """Where phases begin, the target, the best, and where training was stopped or went on."""
    import altair as alt

    starts = [{"step": phase.evaluations[0].step, "phase": phase.name} for phase in report.phases if phase.evaluations]
    name = alt.Chart(_data(starts)).mark_text(color=INK, align="left", baseline="top", dx=4)
    marks: list[alt.Chart] = [name.encode(x="step:Q", y=alt.value(0), text="phase:N")]
    figures = [
        each.eval_mel_ce for phase in report.phases for each in phase.evaluations if each.eval_mel_ce is not None
    ]
    asked = {target for target in report.target_mel_ce.values() if target is not None}
    targets = [{"target": target} for target in sorted(asked) if figures and is_in_sight(target, figures)]
    if targets:
        line = alt.Chart(_data(targets)).mark_rule(color=TARGET, strokeDash=[6, 4])
        marks.append(line.encode(y="target:Q", tooltip=[alt.Tooltip("target:Q", title="target Mel CE")]))
    bests = [
        {"step": phase.best.step, "Mel CE": round(phase.best.mel_ce, 4), "best of": phase.name}
        for phase in report.phases
        if phase.best and phase.evaluations
    ]
    if bests:
        star = alt.Chart(_data(bests)).mark_point(shape="diamond", size=140, color=TARGET, filled=True)
        marks.append(star.encode(x="step:Q", y="Mel CE:Q", tooltip=["best of:N", "step:Q", "Mel CE:Q"]))
    begun = {each.stage: each.time for each in happenings if each.kind == "started"}  # the newest run of each
    halts = [
        {"step": each.step, "what": f"{each.stage} {each.kind}", "why": each.why}
        for each in happenings
        if each.kind in ("stopped", "resumed")
        and each.step is not None
        and steps[0] <= each.step <= steps[1]
        and each.time >= begun.get(each.stage, 0.0)
    ]
    if halts:
        rule = alt.Chart(_data(halts)).mark_rule(color=INK, strokeDash=[2, 3])
        marks.append(rule.encode(x="step:Q", tooltip=["what:N", "step:Q", "why:N"]))
    return marks


def _data(values: Values) -> Any:
    import altair as alt

    return alt.InlineData(values=values)


def _finished(chart: Any, height: int = _HEIGHT) -> dict[str, Any]:
    return _styled(chart.properties(width=_WIDTH, height=height))


def _styled(chart: Any) -> dict[str, Any]:
    styled = (
        chart.properties(background="transparent")
        .configure_view(stroke=None)
        .configure_axis(labelColor=INK, titleColor=INK, gridColor=INK, gridOpacity=0.2, domainColor=INK, tickColor=INK)
        .configure_legend(labelColor=INK, titleColor=INK, labelLimit=0)
    )
    found: dict[str, Any] = styled.to_dict()
    return found
