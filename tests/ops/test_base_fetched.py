"""`xtts-finetune base fetch`, by real huggingface_hub, from a server on loopback that plays the hub."""

import os
import signal
from pathlib import Path

import pytest
from checkouts import Checkout, killed_on_failure
from damage import cut
from hub import CHUNK, FILES, Hub, command, fetch, folder_of, has_all, running
from making import workspaces
from small_disks import small_disk

from xtts_finetune.core.commands import as_typed


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    checkout = workspaces.fresh(tmp_path / "my voice")
    workspaces.configured(checkout.root)
    return checkout


def part(checkout: Checkout) -> Path:
    return folder_of(checkout) / ".fetch" / "model.pth.part"


def test_all_of_it_comes_once(checkout: Checkout) -> None:
    with running(Hub()) as hub:
        said = fetch(checkout, hub)
        assert "Coqui Public Model License 1.0.0: non-commercial use only" in said
        assert "In params.yaml: base: xtts_v2" in said
        assert has_all(checkout)
        assert sorted(hub.fetched()) == sorted(FILES)
        hub.asked.clear()
        assert "all of XTTS v2 is in" in fetch(checkout, hub)
        assert hub.asked == []
        (folder_of(checkout) / "vocab.json").unlink()
        fetch(checkout, hub)
        assert hub.fetched() == ["vocab.json"]
        assert has_all(checkout)


def test_a_killed_download_goes_on(checkout: Checkout) -> None:
    stops = 2 * CHUNK + 100
    with running(Hub(stops_after=stops)) as hub:
        process = checkout.start(*command(hub, "--accept-licence"))
        with killed_on_failure(process):
            assert hub.stopped.wait(60)
            while not (part(checkout).exists() and part(checkout).stat().st_size >= 2 * CHUNK):
                assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        come = part(checkout).stat().st_size
        assert 2 * CHUNK <= come <= stops
        assert not (folder_of(checkout) / "model.pth").exists()
        hub.stops_after = None
        hub.asked.clear()
        fetch(checkout, hub)
        assert ("GET", "model.pth", f"bytes={come}-") in hub.asked
        assert "vocab.json" not in hub.fetched()
        assert has_all(checkout)


def test_wrong_bytes_are_thrown_away_and_what_is_right_stays(checkout: Checkout) -> None:
    right = FILES["model.pth"]
    with running(Hub()) as hub:
        hub.files["model.pth"] = right[:-1] + b"?"
        said = fetch(checkout, hub, code=2)
        assert "model.pth\n      sent another file than the published one" in said
        assert sorted(path.name for path in folder_of(checkout).iterdir()) == sorted({*FILES, ".fetch"} - {"model.pth"})
        assert list((folder_of(checkout) / ".fetch").iterdir()) == []
        hub.files["model.pth"] = right
        fetch(checkout, hub)
        assert has_all(checkout)


def test_files_of_another_size_are_refused_before_a_byte(checkout: Checkout) -> None:
    with running(Hub()) as hub:
        hub.files |= {"model.pth": b"<html>", "dvae.pth": b""}
        said = fetch(checkout, hub, code=2)
        assert f"has 6 bytes, and the published file {len(FILES['model.pth']):,}" in said
        assert f"has 0 bytes, and the published file {len(FILES['dvae.pth']):,}" in said
        assert hub.fetched() == []


def test_without_the_licence_nothing_is_asked(checkout: Checkout) -> None:
    with running(Hub()) as hub:
        said = checkout.run(*command(hub), code=2).stderr
        assert "Coqui Public Model License 1.0.0: non-commercial use only" in said
        assert as_typed("remedy: accept it: xtts-finetune base fetch --accept-licence") in said
        assert hub.asked == []
        assert not folder_of(checkout).exists()


def test_offline_it_names_what_to_copy_and_where(checkout: Checkout) -> None:
    with running(Hub()) as hub:
        pass
    said = fetch(checkout, hub, code=2)
    assert f"{hub.address}\n      cannot be reached" in said
    assert f"Or copy into {folder_of(checkout)}: config.json (256 B), vocab.json" in said
    for name in FILES:
        assert name in said


@pytest.mark.parametrize("missing", [["model.pth"], list(FILES)], ids=["a file", "all"])
def test_a_hub_that_does_not_have_them(checkout: Checkout, missing: list[str]) -> None:
    with running(Hub()) as hub:
        for name in missing:
            del hub.files[name]
        said = fetch(checkout, hub, code=2)
        assert "does not give what is asked for" in said
        assert "404" in said
        assert hub.address in said
        assert hub.fetched() == []


def test_a_file_of_ones_own_is_not_replaced(checkout: Checkout) -> None:
    own = folder_of(checkout) / "model.pth"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"my weights")
    with running(Hub()) as hub:
        said = fetch(checkout, hub, code=2)
        assert "is not the published file, and may be your own" in said
        assert f"rm '{own}'" in said
        assert hub.asked == []
    assert own.read_bytes() == b"my weights"


def test_a_part_that_was_damaged_meanwhile_is_fetched_again(checkout: Checkout) -> None:
    part(checkout).parent.mkdir(parents=True)
    part(checkout).write_bytes(b"?" * CHUNK)
    with running(Hub()) as hub:
        assert "sent another file" in fetch(checkout, hub, code=2)
        assert not part(checkout).exists()
        part(checkout).write_bytes(FILES["model.pth"] + b"more than there is")
        fetch(checkout, hub)
    assert has_all(checkout)
    cut(folder_of(checkout) / "model.pth")
    assert not has_all(checkout)


def test_no_room_is_seen_before_a_byte(checkout: Checkout) -> None:
    with running(Hub()) as hub, small_disk(checkout.root / "base", 16_384):
        said = fetch(checkout, hub, code=2)
        assert "the base does not fit on the disk" in said
        assert "model.pth" in said
        assert hub.asked == []
        assert list((checkout.root / "base").iterdir()) == []
