"""The report of a run: in JSON, on a page, in Markdown; true at each moment, and no stage fails of it."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from checkouts import Checkout
from damage import empty
from making.params import ParamsFile
from making.project import PROJECT
from small_disks import small_disk

from xtts_finetune.core.commands import as_typed
from xtts_finetune.core.files import read_json, write_json
from xtts_finetune.core.layout import Workspace
from xtts_finetune.report import charts
from xtts_finetune.report.content import Next, Report
from xtts_finetune.report.gathering import gather
from xtts_finetune.report.markdown import markdown_of
from xtts_finetune.report.origin import OURS
from xtts_finetune.report.pages import write_pages
from xtts_finetune.tracking.curve import Curve
from xtts_finetune.tracking.journal import Happening, journal, remember_saves, write_down


def told(checkout: Checkout) -> Report:
    """By the command, for programs."""
    return Report.model_validate_json(checkout.run("xtts-finetune", "status", "--json").stdout)


def test_the_schema_in_docs_is_that_of_the_report() -> None:
    assert read_json(PROJECT / "docs" / "report.schema.json") == Report.model_json_schema()


def test_a_finished_run_in_json(finished: Checkout) -> None:
    report = told(finished)
    assert (report.state, report.stopped, report.mistakes) == ("evaluated", None, None)
    assert [phase.state for phase in report.phases] == ["done", "done"]
    for phase in report.phases:
        figures = finished.json(f"reports/train_{phase.name}.json")
        assert phase.best and phase.best.mel_ce == figures["eval"]["mel_ce"]
        assert phase.why == figures["stopped"]
        assert phase.seconds_left is None
        assert all(each.train_mel_ce is not None for each in phase.evaluations), "measured from the first one on"
    assert report.disk.next_stage is None
    assert report.disk.held["models/"] > 0
    assert all(way.command.startswith("xtts-finetune clean --") for way in report.disk.ways)
    assert [each.command for each in report.next] == ["mlflow ui", "dvc plots show", "dvc metrics diff"]


def test_parameters_that_differ_are_named(copied: Checkout) -> None:
    copied.commit()
    assert told(copied).changed_since_commit == []
    assert told(copied).changed_since_champion == []

    def other(params: ParamsFile) -> None:
        params["train_phase2"]["lr"] = 1e-5

    copied.change_params(other)
    assert told(copied).changed_since_commit == ["train_phase2.lr 0.0003 → 1e-05"]
    assert told(copied).changed_since_champion == ["train_phase2.lr 0.0003 → 1e-05"]
    for lineage in copied.root.glob("mlruns/artifacts/models/*/artifacts/artifacts/*/lineage.json"):
        lineage.unlink()
    assert told(copied).changed_since_champion is None, "its files are not here"


class _Page(HTMLParser):
    """What a browser would fetch, hear and name."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.sounds: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.fetched += [found[name] or "" for name in ("src", "href", "srcset") if name in found]
        if tag == "audio":
            self.sounds.append(found["aria-label"] or "")


def test_the_pages_that_evaluate_left(finished: Checkout) -> None:
    """Written within the stage, when dvc.lock did not name what it left yet."""
    page = (finished.root / "reports" / "status.md").read_text(encoding="utf-8")
    assert page.startswith("# Where it stands\n\nTrained, evaluated and registered. As of ")
    assert "these figures are of this workspace's run" in page
    assert "![Mel CE over steps](status.svg)" in page
    assert "<svg" in (finished.root / "reports" / "status.svg").read_text(encoding="utf-8")
    assert as_typed("mlflow ui") in page.partition("## Next")[2]
    assert "dvc repro" not in page.partition("## Next")[2]
    kinds = [each.kind for each in journal(Workspace(finished.root)) if each.stage == "evaluate"]
    assert kinds == ["began", "ended"]


def test_the_page_for_a_browser_needs_no_network(finished: Checkout) -> None:
    page = _Page()
    text = (finished.root / "reports" / "index.html").read_text(encoding="utf-8")
    page.feed(text)
    assert all(each.startswith(("data:audio/ogg;base64,", "#")) for each in page.fetched)
    assert "default-src 'none'" in text
    sentences = (finished.root / "reports" / "samples" / "sentences.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(page.sounds) == 3 * len(sentences) + 1
    assert page.sounds[0].startswith("base: ")
    assert len(re.findall(r'data-chart="(\w+)"', text)) == 2
    for spec in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text):
        assert "vega-lite" in json.loads(spec)["$schema"]


def test_sounds_that_are_damaged_or_gone_are_left_out(copied: Checkout) -> None:
    """Of the last evaluation, and of a phase in training."""
    samples = copied.root / "reports" / "samples"
    spoken = Workspace(copied.root).spoken("phase1", 5)
    shutil.copytree(samples / "phase1", spoken)
    (spoken / "sentences.csv").write_text(
        "file,text\n1.wav,Hello\n2.wav,Gone\n../../1.wav,Elsewhere\n", encoding="utf-8"
    )
    (spoken / "1.wav").write_bytes(b"RIFF")
    shutil.copy(samples / "base" / "1.wav", spoken / "3.wav")
    broken = spoken.with_name("step-00000006")
    broken.mkdir()
    (broken / "sentences.csv").write_bytes(b"\xff\xfe")
    (copied.root / "reports" / "index.html").unlink()
    copied.run("python", "-c", _PAGES)
    page = _Page()
    page.feed((copied.root / "reports" / "index.html").read_text(encoding="utf-8"))
    assert page.sounds
    assert not any(sound.startswith("step ") for sound in page.sounds)


def test_names_from_outside_are_no_markup(copied: Checkout) -> None:
    name = "</script><script>alert(1)</script>|`x`\n# y"
    report = copied.root / "reports" / "dataset.json"
    content = read_json(report)
    report.unlink()  # a link into DVC's cache
    write_json(report, content | {"rejected": [{"id": name, "reason": name}]})
    copied.run("python", "-c", _PAGES)
    for kind in ("index.html", "status.md"):
        text = (copied.root / "reports" / kind).read_text(encoding="utf-8")
        assert "<script>alert" not in text
        assert kind == "index.html" or "\n# y" not in text


_PAGES = """
from xtts_finetune.core.layout import Workspace
from xtts_finetune.report.origin import OURS
from xtts_finetune.report.pages import write_pages
write_pages(Workspace.here())
"""


@pytest.mark.parametrize("damaged", ["dvc.lock", "reports/train_phase1.json", "registry/promotions.jsonl"])
def test_no_stage_fails_of_its_report(copied: Checkout, capsys: pytest.CaptureFixture[str], damaged: str) -> None:
    file = copied.root / damaged
    file.unlink(missing_ok=True)
    file.parent.mkdir(exist_ok=True)
    file.write_text("{", encoding="utf-8")
    write_pages(Workspace(copied.root))
    said = capsys.readouterr().err
    assert ("could not be written" in said) == (damaged != "registry/promotions.jsonl")


def test_on_a_full_disk_no_page_of_before_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would say what is not so any more."""
    with small_disk(tmp_path / "disk", 1_000_000) as disk:
        workspace = Workspace(disk.root)
        workspace.reports.mkdir()
        (disk.root / "params.yaml").write_text((PROJECT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        workspace.status_page.write_text("# All is well\n" + "x" * 9_000, encoding="utf-8")
        disk.fill()
        write_pages(workspace)
        assert "All is well" not in (workspace.status_page.read_text() if workspace.status_page.exists() else "")
        write_down(workspace, Happening.now(workspace, "stopped", "phase1", 7))
    assert "Traceback" not in capsys.readouterr().err


def test_a_journal_that_was_cut_short(workspace: Workspace) -> None:
    write_down(workspace, Happening.now(workspace, "began", "phase1"))
    with workspace.journal.open("a", encoding="utf-8") as stream:
        stream.write('{"kind": "sto\n[]\n')
    write_down(workspace, Happening.now(workspace, "stopped", "phase1", 7, "asked to"))
    rows: list[dict[str, Any]] = [
        {"step": step, "time": 1_000 * step, "disk/free_bytes": 5.0} for step in range(1, 501)
    ]
    remember_saves(workspace, "phase1", [*rows, {"step": 501, "time": 501_000}])
    found = journal(workspace)
    assert [each.kind for each in found if each.kind != "saved"] == ["began", "stopped"]
    assert 50 <= len([each for each in found if each.kind == "saved"]) <= 100
    empty(workspace.journal)
    assert journal(workspace) == []


def test_of_a_checkout_in_which_nothing_ran(fresh: Checkout) -> None:
    (fresh.root / "data").mkdir()
    report = gather(Workspace(fresh.root))
    assert report.state == "nothing prepared"
    assert [each.command for each in report.next] == ["dvc repro"]
    write_pages(Workspace(fresh.root))
    assert not Workspace(fresh.root).report_page.exists()
    assert "Nothing was prepared or trained yet" in (fresh.root / "reports" / "status.md").read_text(encoding="utf-8")


def test_no_password_of_mlflow_s_is_told(copied: Checkout) -> None:
    copied.commit()
    copied.change_params(lambda params: params["tracking"].update(uri="http://anna:geheim@127.0.0.1:9"))
    copied.change_params(lambda params: params["notify"].update(command="curl https://example.org/geheim"))
    said = copied.run("xtts-finetune", "status", "--pages").stdout
    said += copied.run("xtts-finetune", "status", "--json").stdout
    for kind in ("index.html", "status.md"):
        said += (copied.root / "reports" / kind).read_text(encoding="utf-8")
    assert "geheim" not in said


def test_what_a_run_that_was_killed_is(untrained: Checkout) -> None:
    """Nothing says why it ended; that it waits to be resumed is seen."""
    work = untrained.root / "work" / "phase1"
    (work / "step-00000002").mkdir(parents=True)
    write_json(work / "step-00000002" / "manifest.json", {"files": {}})
    curve = Curve(work / "curve.jsonl")
    curve.append({"step": 0, "epoch": 0, "eval/mel_ce": 4.0})
    curve.append({"step": 2, "epoch": 0, "train/mel_ce": 4.0})
    report = told(untrained)
    assert (report.state, report.stopped) == ("stopped", None)
    assert report.phases[0].resume_step == 2


def test_a_stage_that_has_just_ended_knows_whose_figures_they_are(copied: Checkout) -> None:
    """DVC writes dvc.lock behind it, and the report is written before."""
    workspace = Workspace(copied.root)
    copied.change_params(lambda params: params["train_phase2"].update(lr=1e-5))
    assert gather(workspace).whose != OURS
    assert gather(workspace).state == "outdated"
    for stage in ("phase2", "evaluate"):
        assert gather(workspace, stage).whose == OURS
    assert gather(workspace, "evaluate").state == "evaluated"


def test_a_stop_that_was_made_good_is_none_any_more(copied: Checkout) -> None:
    """DVC brought the rest from its cache, and no stage ran that would have said so."""
    (copied.root / "work" / "stopped.txt").write_text("asked to stop", encoding="utf-8")
    report = told(copied)
    assert (report.state, report.stopped) == ("evaluated", None)


def test_halts_of_a_run_before_are_not_in_this_one_s_curve(copied: Checkout) -> None:
    workspace = Workspace(copied.root)
    for kind, step in (("stopped", 2), ("started", 0), ("stopped", 4)):
        write_down(workspace, Happening.now(workspace, kind, "phase1", step))  # type: ignore[arg-type]
    drawn = json.dumps(charts.curves(gather(workspace), journal(workspace)))
    assert '"step": 4, "what": "phase1 stopped"' in drawn
    assert '"step": 2, "what": "phase1 stopped"' not in drawn


@pytest.mark.parametrize(("target", "is_drawn"), [(6.2, True), (0.5, False)])
def test_a_target_far_below_leaves_the_curve_its_room(copied: Checkout, target: float, is_drawn: bool) -> None:
    def both(params: ParamsFile) -> None:
        for phase in ("train_phase1", "train_phase2"):
            params[phase]["target_mel_ce"] = target

    copied.change_params(both)
    report = gather(Workspace(copied.root))
    figures = [each.eval_mel_ce for phase in report.phases for each in phase.evaluations if each.eval_mel_ce]
    wide = max(figures) - min(figures)
    assert (min(figures) - target <= wide) == is_drawn, "what this test takes for granted"
    assert ('"target":' in json.dumps(charts.curves(report, []))) == is_drawn


def test_where_training_begins_the_page_of_a_run_before_goes(fresh: Checkout) -> None:
    workspace = Workspace(fresh.root)
    workspace.reports.mkdir(exist_ok=True)
    for page in (workspace.report_page, workspace.status_picture):
        page.write_text("of before", encoding="utf-8")
    work = fresh.root / "work" / "phase1"
    work.mkdir(parents=True)
    Curve(work / "curve.jsonl").append({"step": 0, "epoch": 0, "eval/mel_ce": 4.0})
    write_pages(workspace, is_stage=True, is_brief=True)
    assert workspace.report_page.exists(), "it goes on, and the page is of it"
    (work / "curve.jsonl").write_text("")
    write_pages(workspace, is_stage=True, is_brief=True)
    assert not workspace.report_page.exists()
    assert not workspace.status_picture.exists()


def test_next_steps_can_be_copied_out_of_a_fence(copied: Checkout) -> None:
    copied.change_params(lambda params: params["train_phase2"].update(lr=1e-7))
    report = gather(Workspace(copied.root)).model_copy(update={"next": [Next(command=40 * "x", why="y")]})
    assert f"{40 * 'x'}  # y" in markdown_of(report, None)


def test_of_many_evaluations_pages_stay_small(fresh: Checkout) -> None:
    work = fresh.root / "work" / "phase1"
    work.mkdir(parents=True)
    rows = [{"step": step, "epoch": 0, "eval/mel_ce": 4.0, "eval/text_ce": 3.0, "time": step} for step in range(6_000)]
    (work / "curve.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    workspace = Workspace(fresh.root)
    write_pages(workspace)
    assert workspace.status_page.stat().st_size < 20_000
    assert workspace.status_picture.stat().st_size < 1_000_000
    assert "the first, and the last 39 of 6000 evaluations" in workspace.status_page.read_text(encoding="utf-8")
