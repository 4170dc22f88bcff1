"""YAML files as DVC reads them, and what is said of those that it cannot."""

import datetime
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import YAMLFileCorruptedError, dumps_yaml, parse_yaml
from making.project import PROJECT

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.yamlfile import read_yaml

NUMBERS = "0 10 -3 +3 010 0o10 0x1F 1_000 0b11 1e3 1e-6 1E-06 1. .5 -.5 1.5e3 12e03 .inf -.INF .nan 1:30 12:30:00 1.2.3"
WORDS = "yes no on off y n Yes NO true True TRUE false null Null ~ None nan inf e5 2026-11-24 <"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a file.yaml"


@pytest.mark.parametrize("scalar", [*NUMBERS.split(), *WORDS.split(), "", "'010'", '"yes"'])
def test_every_scalar_is_what_dvc_takes_it_for(file: Path, scalar: str) -> None:
    file.write_text(f"key: {scalar}\n")
    found, expected = read_yaml(file, "")["key"], parse_yaml(file.read_text(), str(file))["key"]
    assert (type(found), repr(found)) == (type(expected), repr(expected))


@pytest.mark.parametrize(("scalar", "value"), [("010", 10), ("yes", "yes"), ("off", "off"), ("12:30:00", "12:30:00")])
def test_what_yaml_1_1_took_otherwise(file: Path, scalar: str, value: Any) -> None:
    file.write_text(f"key: {scalar}\n")
    assert read_yaml(file, "") == {"key": value}


CONFLICT = """\
schema: '2.0'
stages:
  train:
<<<<<<< HEAD
    md5: 0
=======
    md5: 1
>>>>>>> side
"""


def test_the_marks_of_a_merge_are_named(file: Path) -> None:
    file.write_text(CONFLICT)
    with pytest.raises(UserError, match="cannot be used") as refused:
        read_yaml(file, "a file cannot be used")
    [problem] = refused.value.problems
    assert problem.where == "a file.yaml:4"
    assert "both sides" in problem.what
    assert f"git checkout --ours '{file}'" in problem.remedy


def test_a_date_that_no_calendar_has_is_left_as_text_to_who_asks(file: Path) -> None:
    late = "9999-12-31T23:59:59.9999999Z"
    file.write_text(f"a: 2026-02-31\nb: 2026-02-28\nc: {late}\n", encoding="utf-8")
    assert read_yaml(file, "", any_date=True) == {"a": "2026-02-31", "b": datetime.date(2026, 2, 28), "c": late}


@pytest.mark.parametrize(
    "content",
    [
        *(
            "a: [",
            "a: b: c",
            "\ta: 1",
            "a: 1\na: 2",
            "a: *b",
            "a: =",
            "a: 2026-02-31",
            "a: 9999-12-31T23:59:59.9999999Z",
            "\0",
            "a: \udcff",
        ),
        *('a: !!int ""', "a: !!bool maybe", "a: !!float x", f"a: {'[' * 3000}", f"a: {'[' * 3000}{']' * 3000}"),
    ],
    ids=lambda content: repr(content[:20]),
)
def test_no_damage_is_a_traceback(file: Path, content: str) -> None:
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError):
        read_yaml(file, "")


@pytest.mark.parametrize("scalar", [*NUMBERS.split(), *WORDS.split(), "", "a: b", "[x]", "é", "#", "two\nlines", " "])
def test_what_dvc_wrote_is_read_as_it_was(file: Path, scalar: str) -> None:
    """As a text, as the value that DVC takes it for in a params.yaml, and within others."""
    file.write_text(f"key: {scalar}\n" if scalar.isprintable() and ": " not in scalar and "[" not in scalar else "key:")
    value = parse_yaml(file.read_text(), str(file))["key"]
    for each in ({"key": scalar}, {"key": value}, {"key": {"inner": [value, {"deep": scalar}]}}):
        file.write_text(dumps_yaml(each), encoding="utf-8")
        assert repr(read_yaml(file, "")) == repr(each)


SHAPES = (
    *("{a: 1}", "{a:1}", '{"a":1}', "{a}", "{a: }", "{a: b:c}", "[a:b]", "{a: 1,}", "[,]", '["a":1]', "[a: 1, b]"),
    *("[- a]", "a: [\n1,\n2\n]", "a:\n- b", "- - a", "-", "a:", "? a", "a: ? b", "a: b: c", "a:b", "a : b", "a: @b"),
    *("a: %b", 'a: "b" c', "a: 'b''c'", 'a: "\\x41"', 'a: "\\/"', "a: b#c", "a: b #c", 'a: "b # c"', "a: b\n  c"),
    *("a: |\n  b\n c", "a: |\n  b\n\n", "a: >\n  b\n  c", "a: &x 1\nb: *x", "a: !!str 1", "<<: {a: 1}", "a: ="),
    *("a: 1\na: 2", "{a: 1, a: 2}", "---\na: b", "a: b\n...", "a: b\n---\n", "%YAML 1.1\n---\na: yes", "a:\tb"),
    *("a: b\t", "a: b # c\t", "a: 'b' # c\t", "a: b\u2028c", "a: b\x85c", "\ufeffa: b", "a: b\r\nc: d", "\u00fc: 1"),
    *("a: b # c\u2028d: e", "# \u2028---", "# \x85a: b", "a: x\n...\n...\n", "a: 'b # c'\t", "a: ># c", "a: |# c\n  b"),
    *("# only", "", "1: 1\n1.0: 2", "true: 1", "~: 1", f"a: {'{a: ' * 90}1{'}' * 90}", f"{'- ' * 90}a"),
)


@pytest.mark.parametrize("text", SHAPES, ids=lambda text: repr(text[:20]))
def test_whatever_its_shape_a_file_says_what_it_says_to_dvc(file: Path, text: str) -> None:
    file.write_bytes(text.encode())
    try:
        expected = parse_yaml(text, str(file))
    except (YAMLFileCorruptedError, ValueError):
        with pytest.raises(UserError):
            read_yaml(file, "")
    else:
        assert repr(read_yaml(file, "") or {}) == repr(expected)


def test_whatever_looks_like_a_number_is_what_dvc_takes_it_for(file: Path) -> None:
    draw = random.Random(0)
    scalars = ["".join(draw.choices("0123456789.eE+-_xob:~n<=aA", k=draw.randint(1, 6))) for _ in range(1000)]
    for scalar in scalars:
        file.write_text(f"key: {scalar}\n")
        try:
            expected = parse_yaml(file.read_text(), str(file))
        except (YAMLFileCorruptedError, ValueError):
            with pytest.raises(UserError):
                read_yaml(file, "")
        else:
            assert repr(read_yaml(file, "")) == repr(expected), scalar


@pytest.mark.parametrize("place", ["params.yaml", "dvc.lock", "data.dvc", "presets/xtts_v2.yaml"])
def test_what_this_project_has_is_read_without_dvcs_parser(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xtts_finetune.core.yaml_of_dvc", None)
    assert read_yaml(PROJECT / place, "") == parse_yaml((PROJECT / place).read_text(encoding="utf-8"), place)
