"""metadata.csv: both layouts are read; every structural mistake is named with its line and a remedy."""

from pathlib import Path

import pytest
from making.recordings import Recordings, noise

from xtts_finetune.core.errors import UserError
from xtts_finetune.data.clips import DEFAULT_SPEAKER, SHOWN, Clip, read_metadata


def refusal(recordings: Recordings, content: str | bytes) -> UserError:
    recordings.metadata(content)
    with pytest.raises(UserError) as caught:
        read_metadata(recordings.root, "en")
    return caught.value


def test_ljspeech_layout(recordings: Recordings) -> None:
    recordings.metadata("a|Dr. Who, 3|Doctor Who, three\nb|plain|\n c | two columns \n")
    wavs = recordings.root / "wavs"
    assert read_metadata(recordings.root, "de") == [
        Clip("a", wavs / "a.wav", "Doctor Who, three", "de", DEFAULT_SPEAKER, 1),
        Clip("b", wavs / "b.wav", "plain", "de", DEFAULT_SPEAKER, 2),
        Clip("c", wavs / "c.wav", "two columns", "de", DEFAULT_SPEAKER, 3),
    ]


def test_coqui_layout(recordings: Recordings) -> None:
    recordings.write("eva/2.flac", noise(0, 1))
    recordings.metadata(
        "audio_file|text|language|emotion_name|speaker_name\nwavs/1.wav|one|it|calm|Ann\neva/2.flac|zwei||calm|\n"
    )
    root = recordings.root
    assert read_metadata(root, "de") == [
        Clip("wavs/1.wav", root / "wavs/1.wav", "one", "it", "Ann", 2),
        Clip("eva/2.flac", root / "wavs/eva/2.flac", "zwei", "de", DEFAULT_SPEAKER, 3),
    ]


def test_coqui_layout_of_two_columns(recordings: Recordings) -> None:
    recordings.metadata("text|audio_file\nhello|wavs/1.wav\n")
    (clip,) = read_metadata(recordings.root, "en")
    assert (clip.id, clip.text, clip.language, clip.speaker) == ("wavs/1.wav", "hello", "en", DEFAULT_SPEAKER)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3"])
def test_the_recording_that_exists_is_found(recordings: Recordings, suffix: str) -> None:
    (recordings.root / "wavs" / f"a.{suffix}").touch()
    recordings.metadata("a|text\n")
    assert read_metadata(recordings.root, "en")[0].audio.name == f"a.{suffix}"


@pytest.mark.parametrize("name", ["UP.WAV", "up.Wav", "UP.wav"])
def test_a_recording_is_found_whatever_its_case(recordings: Recordings, name: str) -> None:
    (recordings.root / "wavs" / name).touch()
    recordings.metadata("up|text\n")
    assert read_metadata(recordings.root, "en")[0].audio.name == name


def test_an_id_may_have_its_suffix(recordings: Recordings) -> None:
    (recordings.root / "wavs" / "five.ogg").touch()
    recordings.metadata("five.ogg|text\ngone.wav|text\n")
    clips = read_metadata(recordings.root, "en")
    assert [(clip.id, clip.audio.name) for clip in clips] == [("five", "five.ogg"), ("gone", "gone.wav")]


@pytest.mark.parametrize("header", ["id|text", "id|text|normalised text"])
def test_a_header_of_the_layout_without_one_is_no_clip(recordings: Recordings, header: str) -> None:
    recordings.metadata(f"{header}\na|one|one\n")
    assert [(clip.id, clip.line) for clip in read_metadata(recordings.root, "en")] == [("a", 2)]


@pytest.mark.parametrize(
    ("line", "mark"), [("a,Hello.", "a comma"), ("a\tHello.", "a tab"), ("a;Hello.", "a semicolon")]
)
def test_other_separators_are_told_from_bars(recordings: Recordings, line: str, mark: str) -> None:
    error = refusal(recordings, f"{line}\n")
    assert error.problems[0].remedy == f"write id|text|normalised text, with | between them instead of {mark}"


def test_a_column_that_nothing_is_known_of_is_not_passed_over(recordings: Recordings) -> None:
    """A typo: the languages in it would count for nothing."""
    message = str(refusal(recordings, "audio_file|text|speaker_name|lang\na.wav|hello|ann|it\n"))
    assert "metadata.csv:1\n      has columns that nothing is known of: 'lang'" in message
    assert "known are audio_file|text|speaker_name|emotion_name|language" in message


def test_a_language_that_the_model_does_not_have(recordings: Recordings) -> None:
    message = str(refusal(recordings, "audio_file|text|language\na.wav|hello|English\nb.wav|hello|en\n"))
    assert (
        "metadata.csv:2\n      has no language that XTTS v2 speaks: 'English'\n      remedy: write one of en,"
        in message
    )
    assert "metadata.csv:3" not in message


def test_wav_comes_before_other_formats(recordings: Recordings) -> None:
    for suffix in ("mp3", "wav"):
        (recordings.root / "wavs" / f"a.{suffix}").touch()
    recordings.metadata("a|text\n")
    assert read_metadata(recordings.root, "en")[0].audio.name == "a.wav"


def test_bom_crlf_quotes_and_blank_lines_are_tolerated(recordings: Recordings) -> None:
    recordings.metadata('a|"Quoted", he said|\r\n\r\n  \r\nb|U+2028 \u2028 breaks no line|\r\n'.encode("utf-8-sig"))
    first, second = read_metadata(recordings.root, "en")
    assert (first.id, first.text, first.line) == ("a", '"Quoted", he said', 1)
    assert (second.text, second.line) == ("U+2028 \u2028 breaks no line", 4)


def test_paths_are_absolute(recordings: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings.metadata("a|text\n")
    monkeypatch.chdir(recordings.root.parent)
    assert read_metadata(Path("data"), "en")[0].audio == recordings.root / "wavs" / "a.wav"


def test_missing_folder_names_the_way_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data/\n.*does not exist\n.*make setup.*id\|text\|normalised"):
        read_metadata(tmp_path / "data", "en")


def test_missing_metadata(recordings: Recordings) -> None:
    with pytest.raises(UserError, match=r"data/metadata\.csv\n.*cannot be read: No such file"):
        read_metadata(recordings.root, "en")


@pytest.mark.parametrize("content", ["", "\n \r\n", "\ufeff"])
def test_empty_metadata(recordings: Recordings, content: str) -> None:
    assert "is empty" in str(refusal(recordings, content))


def test_header_without_clips(recordings: Recordings) -> None:
    assert "has a header but no clips" in str(refusal(recordings, "audio_file|text\n"))


def test_header_without_text(recordings: Recordings) -> None:
    message = str(refusal(recordings, "audio_file|transcript\na.wav|x\n"))
    assert "metadata.csv:1" in message and "has no column text: 'audio_file|transcript'" in message


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_not_utf8_names_the_line_and_the_byte(recordings: Recordings, bom: bytes) -> None:
    message = str(refusal(recordings, bom + "a|fine\nb|caf\xe9 au lait\n".encode("latin-1")))
    assert "metadata.csv:2" in message and "0xe9" in message and "save it as UTF-8" in message


def test_all_malformed_lines_are_in_one_message(recordings: Recordings) -> None:
    error = refusal(recordings, "one column\na|b|c|d\nfine|text\n|no id\n../../x|text\n")
    assert [problem.where.split(":")[:2] for problem in error.problems] == [
        ["data/metadata.csv", line] for line in ("1", "2", "4", "5")
    ]
    assert "4 malformed" in error.title
    assert "has 1 column(s): 'one column'" in error.problems[0].what
    assert "has 4 column(s): 'a|b|c|d'" in error.problems[1].what


def test_coqui_row_with_other_columns_than_the_header(recordings: Recordings) -> None:
    message = str(refusal(recordings, "audio_file|text|speaker_name\na.wav|hello\n"))
    assert "metadata.csv:2" in message and "has 2 column(s), the header 3" in message


def test_only_the_first_malformed_lines_are_shown(recordings: Recordings) -> None:
    error = refusal(recordings, "x\n" * (SHOWN + 37))
    assert len(error.problems) == SHOWN + 1
    assert error.problems[SHOWN - 1].where.endswith(f":{SHOWN}") and error.problems[-1].what == "and 37 more"


@pytest.mark.parametrize("name", ["../x", "../../etc/passwd", "sub/../../../x", "/etc/passwd"])
def test_a_coqui_path_out_of_the_folder_is_refused(recordings: Recordings, name: str) -> None:
    (problem,) = refusal(recordings, f"audio_file|text\n{name}|text\n").problems
    assert "points outside" in problem.what and problem.where == f"data/metadata.csv:2: {name}"


@pytest.mark.parametrize("name", ["../../x", "../../../etc/passwd", "sub/../../../x"])
def test_an_ljspeech_id_out_of_the_folder_is_refused(recordings: Recordings, name: str) -> None:
    (problem,) = refusal(recordings, f"{name}|text\n").problems
    assert "points outside" in problem.what and problem.where == f"data/metadata.csv:1: wavs/{name}.wav"


def test_an_ljspeech_id_is_never_an_absolute_path(recordings: Recordings) -> None:
    recordings.metadata("/etc/passwd|text\n")
    assert read_metadata(recordings.root, "en")[0].audio == recordings.root / "wavs/etc/passwd.wav"


def test_a_folder_that_is_a_link_out_is_refused(recordings: Recordings, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (recordings.root / "wavs" / "out").symlink_to(tmp_path / "elsewhere")
    assert "points outside" in str(refusal(recordings, "out/x|text\n"))


def test_a_recording_that_dvc_linked_to_its_cache_is_accepted(recordings: Recordings, tmp_path: Path) -> None:
    (tmp_path / "cached").write_bytes(b"")
    (recordings.root / "wavs" / "a.wav").symlink_to(tmp_path / "cached")
    recordings.metadata("a|text\n")
    assert read_metadata(recordings.root, "en")[0].audio == recordings.root / "wavs" / "a.wav"


def test_names_that_no_file_can_have(recordings: Recordings) -> None:
    assert "has no usable file name" in str(refusal(recordings, "a\0b|text\n"))
    recordings.metadata(f"{'a' * 5000}|text\n")
    assert read_metadata(recordings.root, "en")[0].audio.name == "a" * 5000 + ".wav"  # rejected later as missing


def test_repeated_ids_missing_files_and_empty_texts_are_not_structural(recordings: Recordings) -> None:
    recordings.metadata("a|text\na|text\nb|\n")
    assert [clip.text for clip in read_metadata(recordings.root, "en")] == ["text", "text", ""]
    assert [clip.line for clip in read_metadata(recordings.root, "en")] == [1, 2, 3]
