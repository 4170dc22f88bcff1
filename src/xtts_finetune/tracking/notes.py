"""What MLflow's pages say of a run, a pipeline and a version in words: Markdown, made of what is known of each."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from xtts_finetune.tracking.pace import in_words, seconds_per_step

NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as a description
_SIGNED = "*Kept up to date by xtts-finetune; without this line, what you write here stays.*"
_STATES = {"RUNNING": "Running", "FINISHED": "Finished", "KILLED": "Stopped, everything is saved", "FAILED": "Failed"}
# what a version's page says before it knows them
NUMBER, RUN_PAGE = "<its number>", "<its evaluation>"


def is_ours(note: str | None) -> bool:
    """Whether a description may be replaced: it is ours, or there is none."""
    return not note or note.rstrip().endswith(_SIGNED)


def phase_note(status: str, params: Mapping[str, str], tags: Mapping[str, str], rows: list[dict[str, Any]]) -> str:
    """Of a phase, by its curve.

    Args:
        params: `target_mel_ce`, `base`, as MLflow has them.
        tags: `data`, `phase`, and when it ended `stopped`: why.
    """
    evaluations = [row for row in rows if "eval/mel_ce" in row]  # of them the first is before any step
    best = best_of(evaluations)
    why = f" ({tags['stopped']})" if status == "FINISHED" and "stopped" in tags else ""
    lines = [f"**{_STATES.get(status, status)}**{why}."]
    if best:
        first = evaluations[0]
        lines = [f"**{_STATES.get(status, status)}**{why}: eval Mel CE {first['eval/mel_ce']:.3f} → "
                 f"**{best['mel_ce']:.3f}**, best at step {best['step']:.0f}."]  # fmt: skip
        lines += ["", "| |&emsp;start |&emsp;best |", "|---|---|---|"]
        lines.append(f"| eval Mel CE |&emsp;{first['eval/mel_ce']:.3f} |&emsp;**{best['mel_ce']:.3f}** |")
        if "text_ce" in best:
            lines.append(f"| eval Text CE |&emsp;{first['eval/text_ce']:.3f} |&emsp;{best['text_ce']:.3f} |")
    lines.append("")
    facts = [_target(params, best), _time(rows), _data(tags), _named("base", params.get("base"))]
    return _signed([*lines, *_list(facts), "", f"Next: {_next(status, tags.get('phase', ''))}"])


def evaluation_note(best: str, figures: Mapping[str, Mapping[str, float]], tags: Mapping[str, str], base: str) -> str:
    """Of an evaluation.

    Args:
        figures: of `base` and the phases, `mel_ce` and `text_ce` on the eval split.
    """
    lines = [
        f"**{best} is best**: eval Mel CE {figures['base']['mel_ce']:.3f} → **{figures[best]['mel_ce']:.3f}**.",
        "",
    ]
    facts = [_data(tags), _named("base", base)]
    listen = "Listen: Artifacts → samples; recording has what the speaker said, sentences.csv the texts."
    following = "`xtts-finetune promote` makes the best the champion, if it is better than the one there is."
    return _signed([*lines, *table(figures, best), "", *_list(facts), "", listen, "", f"Next: {following}"])


def pipeline_note(
    status: str,
    figures: Mapping[str, float],
    tags: Mapping[str, str],
    phases: Iterable[tuple[str, float, float | None]],
    of_evaluation: Mapping[str, str],
) -> str:
    """Of a pipeline.

    Args:
        figures: base/mel_ce and such.
        tags: `best` and the version that was registered.
        phases: name, Mel CE and Text CE of the best of each.
        of_evaluation: tags of the best evaluation, which tell the data.
    """
    state = _STATES.get(status, status)
    if "best" not in tags:
        said = f"**{state}**."
    else:
        version = f"; registered as version {tags['registered']}" if "registered" in tags else ""
        said = f"**{state}**: {tags['best']} is best, eval Mel CE **{figures['best/mel_ce']:.3f}**{version}."
    rows = [("base", figures["base/mel_ce"], figures.get("base/text_ce"))] if "base/mel_ce" in figures else []
    rows += phases
    body = ["", *_table_of(rows, figures.get("best/mel_ce")), ""] if rows else [""]
    next_one = "`xtts-finetune promote`, or another setting in params.yaml and `dvc repro`"
    if status != "FINISHED" or "best" not in tags:
        next_one = "`xtts-finetune status` says how far it is; stopped, `dvc repro` goes on"
    return _signed([said, *body, *_list([_data(of_evaluation)]), "", f"Next: {next_one}"])


def version_page(
    card: Mapping[str, Any], figures: Mapping[str, Mapping[str, float]], tags: Mapping[str, str], model_name: str
) -> str:
    """Of a version; NUMBER and RUN_PAGE stand for what is known when it is registered.

    Args:
        card: of the exported best: phase, step, base, params.
        figures: as of `evaluation_note`.
        tags: of its evaluation: data and source.
    """
    phase, params = card["phase"], card["params"]
    trained = ", ".join(f"{name} {params[name]}" for name in ("method", "lr", "epochs", "batch_size", "seed"))
    where = " on ".join(filter(None, [tags.get("git_commit", "")[:12], tags.get("mlflow.source.git.branch")]))
    dirty = ", with changes that were not committed" if tags.get("git_dirty") == "true" else ""
    facts = [
        _data(tags),
        _named("base", card["base"]),
        f"trained by {tags.get('mlflow.user', 'somebody')}: {trained}",
        f"code: {tags.get('mlflow.source.name', '')} {where}{dirty}",
    ]
    load = [
        "```python",
        "import mlflow, pandas",
        f'voice = mlflow.pyfunc.load_model("models:/{model_name}/{NUMBER}")',
        'voice.predict(pandas.DataFrame({"text": ["Welcome back to the show!"]}))  # audio_wav_base64, sample_rate',
        "```",
        f"or `xtts-finetune restore {NUMBER}`, `xtts-finetune export {NUMBER} FOLDER`, "
        f"`mlflow models serve -m models:/{model_name}/{NUMBER} --env-manager local`",
    ]
    listen = f"Listen: [its evaluation]({RUN_PAGE}) has base, phases and the recording; so has the model's page."
    headline = f"**The best of {phase}**, step {card['step']}: eval Mel CE **{figures[phase]['mel_ce']:.3f}**."
    return "\n".join([headline, "", *table(figures, phase), "", *_list(facts), "", listen, "", *load])


def best_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Step, Mel CE and Text CE of the best weights in a curve, raw or averaged; of equals the first. {}: of none."""
    kinds = ("eval", "eval_ema")
    found = ((row[f"{kind}/mel_ce"], row, kind) for row in rows for kind in kinds if f"{kind}/mel_ce" in row)
    finite = [each for each in found if each[0] == each[0]]
    if not finite:
        return {}
    mel_ce, row, kind = min(finite, key=lambda each: each[0])
    text_ce = {"text_ce": row[f"{kind}/text_ce"]} if f"{kind}/text_ce" in row else {}
    return {"step": row["step"], "mel_ce": mel_ce, **text_ce}


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """For a table: MLflow's shows all digits that there are, and cuts them off where the column ends."""
    return {name: round(value, 4) for name, value in figures.items()}


def table(figures: Mapping[str, Mapping[str, float]], best: str) -> list[str]:
    """Mel CE and Text CE of models, as Markdown."""
    names = [name for name in ("base", "phase1", "phase2") if name in figures]
    rows = [(name, figures[name]["mel_ce"], figures[name]["text_ce"]) for name in names]
    return _table_of(rows, figures[best]["mel_ce"])


def _table_of(rows: Iterable[tuple[str, float, float | None]], best: float | None) -> list[str]:
    lines = ["| model |&emsp;eval Mel CE |&emsp;eval Text CE |", "|---|---|---|"]  # MLflow's page leaves no room
    for name, mel_ce, text_ce in rows:
        mel = f"**{mel_ce:.3f}**" if mel_ce == best else f"{mel_ce:.3f}"
        lines.append(f"| {name} |&emsp;{mel} |&emsp;{'' if text_ce is None else f'{text_ce:.3f}'} |")
    return lines


def _target(params: Mapping[str, str], best: Mapping[str, float]) -> str:
    text = params.get("target_mel_ce", "None")
    if text == "None":
        return ""
    target = float(text)
    missing = best["mel_ce"] - target if best else 0
    return f"target Mel CE: {target:g}" + (f", {missing:.3f} to go" if missing > 0 else ", reached" if best else "")


def _time(rows: list[dict[str, Any]]) -> str:
    pace = seconds_per_step(rows)
    if pace is None:
        return ""
    steps = max(row["step"] for row in rows) - rows[0]["step"]
    at = datetime.fromtimestamp(rows[-1]["time"] / 1000, UTC)
    return f"time: about {in_words(pace * steps)}, {pace:.2g} s a step; last step {at:%Y-%m-%d %H:%M} UTC"


def _data(tags: Mapping[str, str]) -> str:
    return _named("data", tags.get("data"))


def _named(name: str, value: str | None) -> str:
    return f"{name}: {value}" if value else ""


def _next(status: str, phase: str) -> str:
    if status == "RUNNING":
        return "`xtts-finetune status` says how far it is and how long it takes."
    if status != "FINISHED":
        return "`dvc repro` goes on from the last saved state."
    return f"`dvc repro` goes on with {'phase 2' if phase == 'phase1' else 'the evaluation'}."


def _list(facts: Iterable[str]) -> list[str]:
    return [f"- {fact}" for fact in facts if fact]


def _signed(lines: Iterable[str]) -> str:
    return "\n".join([*lines, "", _SIGNED])
