"""The figures in reports/: nothing is drawn on anything else, and they are read on any background."""

from pathlib import Path

import pytest
from matplotlib import image
from matplotlib.figure import Figure

from xtts_finetune.core.layout import PhaseName
from xtts_finetune.stages.figures import draw_curves, draw_lengths
from xtts_finetune.tracking.curve import COLUMNS

HEADER = ",".join(COLUMNS) + "\n"


@pytest.fixture
def curves(tmp_path: Path) -> dict[PhaseName, Path]:
    rows = {
        "phase1": "0,0,nan,7.1,7.1,7.0,nan,5.9,5.9,5.8,0\n100,1,5.2,5.0,4.9,4.8,4.0,3.9,3.8,3.7,1e-3\n",
        "phase2": "100,0,nan,5.0,5.0,4.8,nan,3.9,3.9,3.7,0\n200,1,4.9,4.8,4.7,4.6,3.9,3.8,3.7,3.6,0\n",
    }
    for phase, text in rows.items():
        (tmp_path / f"{phase}.csv").write_text(HEADER + text)
    return {"phase1": tmp_path / "phase1.csv", "phase2": tmp_path / "phase2.csv"}


def test_the_legend_lies_on_no_line(
    curves: dict[PhaseName, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k)))
    draw_curves(tmp_path / "curves.png", curves, {"mel_ce": 7.1, "text_ce": 5.9}, 2.5)
    [figure] = drawn
    assert [len(axes.lines) for axes in figure.axes] == [9, 8], "of each phase its EMA, too; the base, and the target"
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    assert legends
    for legend in legends:
        assert figure.bbox.fully_contains(*legend.get_window_extent().min)
        assert figure.bbox.fully_contains(*legend.get_window_extent().max)
        for axes in figure.axes:
            assert not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_curves_of_before_there_were_averages(curves: dict[PhaseName, Path], tmp_path: Path) -> None:
    old = [name for name in COLUMNS if "ema" not in name and "eval_train" not in name]
    for file in curves.values():
        file.write_text(",".join(old) + "\n100,1,5.2,5.0,4.0,3.9,1e-3\n")
    draw_curves(tmp_path / "curves.png", curves, {"mel_ce": 7.1, "text_ce": 5.9}, 2.5)
    assert (tmp_path / "curves.png").exists()


def test_figures_have_no_background_and_equal_bytes(curves: dict[PhaseName, Path], tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        draw_curves(tmp_path / name, curves, {"mel_ce": 7.1, "text_ce": 5.9}, None)
    draw_lengths(tmp_path / "lengths.png", [1.0, 2.0], [1.5])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    for name in ("one.png", "lengths.png"):
        assert image.imread(tmp_path / name)[0, 0, 3] == 0
