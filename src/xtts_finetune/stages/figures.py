"""The figures in reports/."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xtts_finetune.core.files import published_file
from xtts_finetune.core.layout import PhaseName

TRAIN, EVAL, MARK = "#4c78a8", "#e4572e", "#666666"


def draw_lengths(path: Path, train: Sequence[float], evaluation: Sequence[float]) -> None:
    """Histogram of the clips' lengths in seconds, by split."""
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    labels = [f"train ({len(train)} clips)", f"eval ({len(evaluation)} clips)"]
    axes.hist([train, evaluation], bins=30, stacked=True, color=[TRAIN, EVAL], label=labels)
    axes.set(xlabel="length (s)", ylabel="clips", title="Accepted clips")
    axes.legend(frameon=False)
    _save(figure, path)


def draw_curves(path: Path, curves: Mapping[PhaseName, Path], base: Mapping[str, float], target: float | None) -> None:
    """Mel CE and Text CE of both phases over steps, with the base's Mel CE and the target.

    Args:
        curves: the CSV of each phase.
        base: `mel_ce` and `text_ce` of the base on the eval split.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for measure, plot in zip(("mel_ce", "text_ce"), axes, strict=True):
        for phase, file in curves.items():
            rows = list(csv.DictReader(file.open(encoding="utf-8", newline="")))
            _draw_phase(plot, phase, rows, measure)
        plot.axhline(base[measure], color=MARK, lw=1, ls=":", label=f"base {base[measure]:.2f}")
        plot.set(xlabel="step", ylabel="nats per token", title={"mel_ce": "Mel CE", "text_ce": "Text CE"}[measure])
    if target is not None:
        axes[0].axhline(target, color="green", lw=1, ls="--", label=f"target {target}")
    for plot in axes:
        plot.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _draw_phase(axes: Axes, phase: PhaseName, rows: Sequence[Mapping[str, str]], measure: str) -> None:
    if phase != "phase1":
        axes.axvline(int(rows[0]["step"]), color=MARK, lw=0.5)
    style = {"phase1": "-", "phase2": "--"}[phase]
    for split, colour, marker in ("train", TRAIN, "none"), ("eval", EVAL, "o"):
        steps = [int(row["step"]) for row in rows]
        values = [float(row[f"{split}_{measure}"]) for row in rows]  # nan, which is not drawn, before the first step
        axes.plot(steps, values, style, color=colour, marker=marker, ms=3.5, label=f"{split}, {phase}")


def _save(figure: Figure, path: Path) -> None:
    with published_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})  # equal data, equal bytes
    plt.close(figure)
