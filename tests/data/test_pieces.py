"""The file that `vocabulary.extend` names."""

from pathlib import Path

import pytest

from xtts_finetune.core.errors import UserError
from xtts_finetune.data.pieces import read_pieces


def write(data: Path, content: bytes, name: str = "pieces.txt") -> Path:
    data.mkdir(exist_ok=True)
    (data / name).write_bytes(content)
    return data


def test_a_piece_a_line(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "\ufeffă\r\n\n  știință \n[hu]".encode())
    assert read_pieces(data, "pieces.txt") == [
        ("ă", "data/pieces.txt:1"),
        ("știință", "data/pieces.txt:3"),
        ("[hu]", "data/pieces.txt:4"),
    ]


def test_it_may_be_a_link_as_dvc_makes_them(tmp_path: Path) -> None:
    (tmp_path / "cached").write_text("a\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pieces.txt").symlink_to(tmp_path / "cached")
    assert [piece.text for piece in read_pieces(tmp_path / "data", "pieces.txt")] == ["a"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"ok\n\xff", r"data/pieces\.txt:2\n +is not UTF-8 text"),
        (b"\n \n", r"is empty"),
        (b"a b\nc\nd e", r"(?s)pieces\.txt:1\n +'a b' has a blank in it.*pieces\.txt:3\n +'d e' has a blank"),
    ],
)
def test_what_is_no_list(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_pieces(write(tmp_path / "data", content), "pieces.txt")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Auto", "cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
        ("../secret/a", "a path leaves its folder"),
        ("/etc/passwd", "a path leaves its folder"),
    ],
)
def test_where_it_is_not(tmp_path: Path, name: str, said: str) -> None:
    write(tmp_path / "data", b"a")
    with pytest.raises(UserError, match=said) as error:
        read_pieces(tmp_path / "data", name)
    assert "vocabulary.extend" in str(error.value)
