"""From a data/ folder to features and a report: nothing gets lost, every rejection has its reason."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from making.recordings import Recordings, noise
from stand_ins import encode_audio, encode_text

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.files import sha256_file
from xtts_finetune.core.params import PrepareParams
from xtts_finetune.data.checks import ClipRejected
from xtts_finetune.data.clips import read_metadata
from xtts_finetune.data.dataset import accept, dataset_report, refuse_without_clips, write_features
from xtts_finetune.data.features import FeatureReader
from xtts_finetune.data.split import split


def no_snow(text: str, language: str) -> list[int]:
    if "☃" in text:
        raise ClipRejected("unknown characters: '☃'")
    return encode_text(text, language)


def troubled(recordings: Recordings) -> None:
    """Two good clips among one of every kind of bad."""
    recordings.write("good.wav", noise(1, 1))
    recordings.write("again.flac", noise(1, 1))  # the same sound in another format
    recordings.write("short.wav", noise(2, 0.2))
    recordings.write("quiet.wav", noise(3, 1, level=0.0005))
    recordings.write("loud.wav", np.sign(noise(4, 1)))
    recordings.write("stereo.ogg", np.stack([noise(5, 2, 44_100), noise(6, 2, 44_100)], axis=1), 44_100)
    recordings.write("snow.wav", noise(7, 1))
    (recordings.root / "wavs" / "bad.wav").write_bytes(b"RIFF")
    recordings.metadata(
        "good|Hello.\ngood|Hello again.\nagain|Hello!\nshort|x\nquiet|x\nloud|x\ngone|x\nbad|x\n"
        "empty|\nsnow|It's ☃\nstereo|Hello.\n"
    )


def test_every_clip_is_accepted_or_rejected_with_a_reason(recordings: Recordings, params: PrepareParams) -> None:
    troubled(recordings)
    accepted, rejected = accept(read_metadata(recordings.root, params.language), params, no_snow)
    assert [item.clip.id for item in accepted] == ["good", "stereo"]  # the same transcript twice is fine
    assert {each.clip.line: each.kind for each in rejected} == {
        2: "repeated id",
        3: "repeated audio",
        4: "too short",
        5: "silence",
        6: "clipped",
        7: "missing file",
        8: "undecodable",
        9: "no text",
        10: "unknown characters",
    }
    assert rejected[0].reason == "repeated id: the same as in line 1"
    assert rejected[1].reason == "repeated audio: the same as in line 1"
    good, stereo = accepted
    assert (good.samples, good.rate, good.channels) == (22_050, 22_050, 1)
    assert good.tokens.tolist() == encode_text("Hello.", "en")
    assert (stereo.samples, stereo.rate, stereo.channels) == (44_100, 44_100, 2)


def test_an_id_counts_as_taken_only_by_an_accepted_clip(recordings: Recordings, params: PrepareParams) -> None:
    recordings.write("a.wav", noise(1, 1))
    recordings.metadata("a|\na|The corrected line.\n")
    accepted, rejected = accept(read_metadata(recordings.root, params.language), params, encode_text)
    assert [item.clip.line for item in accepted] == [2] and [each.kind for each in rejected] == ["no text"]


def test_the_language_of_a_row_reaches_the_tokenizer(recordings: Recordings, params: PrepareParams) -> None:
    recordings.write("1.wav", noise(1, 1))
    recordings.write("2.wav", noise(2, 1))
    recordings.metadata("audio_file|text|language\n1.wav|uno|it\n2.wav|one|\n")
    accepted, _ = accept(
        read_metadata(recordings.root, params.language), params, lambda text, language: [len(text), *map(ord, language)]
    )
    assert [item.tokens.tolist() for item in accepted] == [[3, ord("i"), ord("t")], [3, ord("e"), ord("n")]]


def test_nothing_usable_says_why(recordings: Recordings, params: PrepareParams) -> None:
    recordings.write("short.wav", noise(2, 0.2))
    recordings.metadata("gone|x\nshort|x\nlost|x\n")
    accepted, rejected = accept(read_metadata(recordings.root, params.language), params, encode_text)
    assert dataset_report(recordings.root, accepted, [], rejected)["clips"]["rejected"] == 3
    with pytest.raises(UserError) as caught:
        refuse_without_clips(recordings.root, accepted, rejected)
    message = str(caught.value)
    assert "all 3 clips are rejected: 2 × missing file, 1 × too short" in message
    assert "data/metadata.csv:2\n      too short: 0.20 s, min_seconds is 0.5" in message


def test_report(recordings: Recordings, params: PrepareParams) -> None:
    troubled(recordings)
    accepted, rejected = accept(read_metadata(recordings.root, params.language), params, no_snow)
    report = dataset_report(recordings.root, accepted[:1], accepted[1:], rejected)
    assert report["clips"] == {"read": 11, "accepted": 2, "rejected": 9, "train": 1, "eval": 1}
    assert report["hours"] == {"train": 0.0003, "eval": 0.0006}
    assert report["seconds"] == {"min": 1.0, "median": 1.5, "mean": 1.5, "max": 2.0}
    assert report["tokens"] == {"min": 6, "median": 6, "mean": 6, "max": 6}
    assert report["speakers"] == {"default": 2} and report["languages"] == {"en": 2}
    assert report["sample_rates"] == {"22050": 1, "44100": 1} and report["channels"] == {"1": 1, "2": 1}
    assert report["rejected_by_kind"]["too short"] == 1
    assert report["rejected"][2] == {
        "id": "short",
        "line": 4,
        "file": "wavs/short.wav",
        "reason": "too short: 0.20 s, min_seconds is 0.5",
    }
    assert str(recordings.root) not in json.dumps(report)  # the same on every machine


def test_split_digest_follows_the_split_alone(recordings: Recordings, params: PrepareParams) -> None:
    recordings.clips([0.5] * 10)
    accepted, _ = accept(read_metadata(recordings.root, params.language), params, encode_text)

    def digest(seed: int, reverse: bool = False) -> str:
        train, evaluation = split(accepted[::-1] if reverse else accepted, 0.2, seed)
        return str(dataset_report(recordings.root, train, evaluation, [])["split_digest"])

    assert digest(1) == digest(1, reverse=True) and len(digest(1)) == 64
    assert len({digest(seed) for seed in range(5)}) > 1


def test_features_are_those_of_the_recordings(recordings: Recordings, params: PrepareParams, tmp_path: Path) -> None:
    recordings.clips([1.0, 0.7, 2.2])
    accepted, _ = accept(read_metadata(recordings.root, params.language), params, encode_text)
    digests = write_features(tmp_path, "train", accepted, encode_audio)
    assert digests == {file.name: sha256_file(file) for file in tmp_path.glob("train.*")}
    reader = FeatureReader(tmp_path, "train")
    for index, item in enumerate(accepted):
        samples = noise(index, item.seconds)
        example = reader[index]
        assert np.array_equal(reader.audio_slice(index, 0, item.samples), samples)
        assert np.array_equal(example.codes, encode_audio(samples)[:-1])
        assert example.tokens.tolist() == encode_text(f"Text number {index}.", "en")
        assert (example.entry.id, example.entry.text) == (item.clip.id, item.clip.text)


@pytest.mark.parametrize("change", ["longer", "of the same length", "broken", "gone"])
def test_a_recording_that_changes_meanwhile_is_refused(
    recordings: Recordings, params: PrepareParams, tmp_path: Path, change: str
) -> None:
    recordings.clips([1.0])
    accepted, _ = accept(read_metadata(recordings.root, params.language), params, encode_text)
    path = recordings.write("c0000.wav", noise(9, 1.5 if change == "longer" else 1.0))
    if change == "broken":
        path.write_bytes(b"RIFF")
    elif change == "gone":
        path.unlink()
    with pytest.raises(UserError, match="changed while it was being prepared") as caught:
        write_features(tmp_path, "train", accepted, encode_audio)
    assert caught.value.problems[0].where == "wavs/c0000.wav"


def test_memory_does_not_grow_with_the_number_of_clips(params: PrepareParams, tmp_path: Path) -> None:
    def peak(count: int) -> int:
        recordings = Recordings(tmp_path / str(count))
        recordings.clips([5.0] * count)
        prepared = tmp_path / f"prepared{count}"
        prepared.mkdir()
        tracemalloc.start()
        accepted, _ = accept(read_metadata(recordings.root, params.language), params, encode_text)
        write_features(prepared, "train", accepted, encode_audio)
        reader = FeatureReader(prepared, "train")
        assert sum(len(reader[index].codes) for index in range(count)) == count * 108
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(5)  # what is imported or cached at first use
    few, many = peak(50), peak(400)
    print(f"peak of 50 clips {few / 1e6:.2f} MB, of 400 clips {many / 1e6:.2f} MB")
    assert many - few < 10e6  # more may be decoded ahead of their turn; all 350 decoded would be 154 MB
