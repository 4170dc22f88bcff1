"""What `prepare` does to the base's vocabulary, and says about it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from xtts_finetune.core.layout import NEW_ROWS, VOCABULARY, Workspace
from xtts_finetune.core.params import Params
from xtts_finetune.data.clips import Clip
from xtts_finetune.data.pieces import read_pieces
from xtts_finetune.model import rows, xtts
from xtts_finetune.model.base import own_state
from xtts_finetune.model.vocabulary import Extension, Need, clean_texts, count_tokens, needs_of

_SHOWN = 12  # characters and pieces in one line


def settle_vocabulary(
    workspace: Workspace, params: Params, base: Path, weights: Path, clips: Sequence[Clip]
) -> dict[str, Any]:
    """Extend the vocabulary in the folder `base` as params.yaml asks, and say what the transcripts still lack.

    All transcripts are read, not the training clips' alone: the vocabulary decides which clips there are.

    Args:
        weights: the base's own.

    Returns:
        What reports/dataset.json says of it; equal data give equal reports.

    Raises:
        UserError: what the file of pieces names cannot be added, or the vocabulary is no BPE of XTTS v2's kind.
    """
    tokenizer = xtts.build_tokenizer(base / VOCABULARY)
    texts = clean_texts(tokenizer, [(clip.text, clip.language) for clip in clips])
    needs = needs_of(tokenizer, texts)
    report: dict[str, Any] = {}
    if params.vocabulary.extend is not None:
        before, extension = count_tokens(tokenizer, texts), Extension(base)
        known = _fill(extension, workspace, params, texts, needs)
        _write(extension, weights)
        tokenizer = xtts.build_tokenizer(base / VOCABULARY)
        report = _added(extension, needs) | {"known_before": known}
        report["tokens_of_all_texts"] = {"before": before, "after": count_tokens(tokenizer, texts)}
        _say_added(report)
    lacking = needs_of(tokenizer, texts)
    if lacking:
        remedy = _remedy(params, lacking)
        _say_lacking(lacking, _clips_with(lacking, texts), len(clips), remedy)
        report |= {"refused": _counted(lacking), "remedy": remedy}
    return report


def _fill(
    extension: Extension, workspace: Workspace, params: Params, texts: Sequence[tuple[str, str]], needs: list[Need]
) -> list[str]:
    """What is to be added; returns what the file names and the vocabulary has."""
    listed = params.vocabulary.extend
    assert listed is not None
    if listed == "auto":
        extension.add_needs(needs)
        extension.learn(texts, params.vocabulary.pieces)
        return []
    languages = {params.prepare.language, *(language for _, language in texts)}
    return extension.add_listed(read_pieces(workspace.data, listed), languages)


def _write(extension: Extension, weights: Path) -> None:
    if not extension.new:
        return
    state = own_state(weights)
    new = rows.new_rows(state, [token.start for token in extension.new])
    rows.write_rows(new, extension.folder / NEW_ROWS)
    extension.write()


def _added(extension: Extension, needs: Sequence[Need]) -> dict[str, Any]:
    counts, added = _counted(needs), dict[str, Any]()
    for kind in ("language", "character"):
        texts = [token.text for token in extension.new if token.kind == kind]
        added[f"{kind}s"] = {text: counts.get(text, {"clips": 0, "times": 0}) for text in texts}
    return {"added": added | {"pieces": [token.text for token in extension.new if token.kind == "piece"]}}


def _say_added(report: dict[str, Any]) -> None:
    added, tokens = report["added"], report["tokens_of_all_texts"]
    for kind, texts in added.items():
        if texts:
            print(f"added to the vocabulary: {len(texts)} {kind}: {_shown(texts)}")
    if not any(added.values()):
        print("nothing is added to the vocabulary: it has all that it was asked for")
    shorter = 1 - tokens["after"] / max(1, tokens["before"])
    print(f"the transcripts have {tokens['after']} tokens, {tokens['before']} before: {shorter:.1%} fewer")


def _say_lacking(lacking: Sequence[Need], refused: int, clips: int, remedy: str) -> None:
    print(
        f"the vocabulary lacks {len(lacking)} characters or languages of {refused} of {clips} clips, which are refused:"
    )
    for need in lacking[:_SHOWN]:
        print(f"    {need.text!r} in {need.clips} clips, {need.times} times")
    if len(lacking) > _SHOWN:
        print(f"    and {len(lacking) - _SHOWN} more: see reports/dataset.json")
    print(f"remedy: {remedy}")


def _remedy(params: Params, lacking: Sequence[Need]) -> str:
    if params.vocabulary.extend is None and any(need.is_language or need.is_spoken for need in lacking):
        return "params.yaml: vocabulary.extend: auto adds what is spoken of them to the vocabulary"
    if params.vocabulary.extend in (None, "auto"):
        what = "these cannot be seen, or stand where a text was lost"
        return f"{what}: correct metadata.csv, or name them in a file: vocabulary.extend"
    return f"name them in data/{params.vocabulary.extend}, too, or params.yaml: vocabulary.extend: auto"


def _clips_with(lacking: Sequence[Need], texts: Sequence[tuple[str, str]]) -> int:
    tags = {need.text for need in lacking if need.is_language}
    characters = {need.text for need in lacking if not need.is_language}
    return sum(xtts.language_tag(language) in tags or not characters.isdisjoint(text) for text, language in texts)


def _counted(needs: Sequence[Need]) -> dict[str, dict[str, int]]:
    return {need.text: {"clips": need.clips, "times": need.times} for need in needs}


def _shown(texts: Iterable[str]) -> str:
    texts = [repr(text) for text in texts]
    return " ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")
