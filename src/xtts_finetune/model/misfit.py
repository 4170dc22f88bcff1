"""Weights that do not fit a network, in words: every tensor is named, alike ones of many layers in one line."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from xtts_finetune.core.errors import Problem, UserError

_NAMED_ONE_BY_ONE = 12  # so many names are read; of more, layers are put together
_LISTED = re.compile(r"(Missing|Unexpected) key\(s\) in state_dict: (.*?)\.?\s*$")
_SHAPE = re.compile(r"size mismatch for (.+?): copying a param with shape (.*?) from checkpoint, .*? is (.*)\.$")
_BLOCK = re.compile(r"(.*?\.)(\d+)\.(.+)")
_OF_VOCABULARY = ("text_embedding.weight", "text_head.weight", "text_head.bias")


def misfit(source: Path, error: RuntimeError) -> UserError:
    """What torch's `load_state_dict` raised: a problem for each kind of misfit, with all that it names."""
    problems = list(_problems(str(source), [line.strip() for line in str(error).splitlines()[1:]]))
    return UserError("weights do not fit the model", problems or [Problem(str(source), str(error), _REMEDY)])


_REMEDY = "use weights, config.json and vocab.json of one and the same model"


def _problems(source: str, lines: Sequence[str]) -> Iterator[Problem]:
    """The first line of torch's text only names the class."""
    listed: dict[str, list[str]] = {"Missing": [], "Unexpected": []}
    shapes: dict[str, str] = {}
    unknown: list[str] = []
    for line in lines:
        if match := _LISTED.match(line):
            listed[match[1]] += re.findall(r'"([^"]*)"', match[2])
        elif match := _SHAPE.match(line):
            shapes[match[1]] = f"{_shown(match[2])}, not {_shown(match[3])}"
        else:
            unknown.append(line)
    if missing := listed["Missing"]:
        yield Problem(source, f"lacks {_counted(missing)}: {'; '.join(grouped(missing))}", _REMEDY)
    if unexpected := listed["Unexpected"]:
        what = f"has {_counted(unexpected)} that the model does not know: {'; '.join(grouped(unexpected))}"
        yield Problem(source, what, _REMEDY)
    spelling = {name: shapes.pop(name) for name in _OF_VOCABULARY if name in shapes}
    if spelling:
        of = "; ".join(f"{name} is {shape}" for name, shape in spelling.items())
        yield Problem(source, f"is of another vocabulary: {of}", "use the vocab.json that it was trained with")
    if shapes:
        what = f"has {_counted(list(shapes))} of another shape: {'; '.join(grouped(list(shapes), shapes))}"
        yield Problem(source, what, _REMEDY)
    if unknown:
        yield Problem(source, " ".join(unknown), _REMEDY)


def grouped(names: Sequence[str], shapes: dict[str, str] | None = None) -> list[str]:
    """`names`, each with what `shapes` says of it; of many, layers that lack or have the same are one entry."""

    def one(name: str) -> str:
        return f"{name} ({shapes[name]})" if shapes else name

    if len(names) <= _NAMED_ONE_BY_ONE:
        return [one(name) for name in names]
    blocks: dict[tuple[str, int], list[str]] = {}  # what stands in each numbered layer
    entries = []
    for name in names:
        if match := _BLOCK.fullmatch(name):
            blocks.setdefault((match[1], int(match[2])), []).append(match[3])
        else:
            entries.append(one(name))
    for stem, first, last in _runs(blocks):
        inner = blocks[stem, first]
        if first == last and len(inner) == 1:
            entries.append(one(f"{stem}{first}.{inner[0]}"))
            continue
        span = f"{stem}{first}" if first == last else f"{stem}{first} … {stem}{last}"
        each = " each" if first != last else ""
        entries.append(f"{span}: {_counted(inner)}{each}, as {one(f'{stem}{first}.{inner[0]}')}")
    return entries


def _runs(blocks: dict[tuple[str, int], list[str]]) -> Iterator[tuple[str, int, int]]:
    """Layers that follow each other and are alike: what they are called, the first and the last."""
    start: tuple[str, int] | None = None
    for stem, number in sorted(blocks):
        following = (stem, number + 1)
        start = start or (stem, number)
        if following not in blocks or blocks[following] != blocks[stem, number]:
            yield stem, start[1], number
            start = None


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}"


def _shown(shape: str) -> str:
    """torch.Size([320, 64]) as 320 × 64."""
    return " × ".join(re.findall(r"\d+", shape)) or "a single number"
