"""What git names in DVC's cache: every commit, branch, tag, stash and experiment, by their dvc.lock and .dvc files."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkouts import Checkout
from making import workspaces

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.dvcio.history import Revision, has_other_states_than_head, is_detached, params_at, revisions


@pytest.fixture
def repository(tmp_path: Path) -> Checkout:
    return workspaces.repository(tmp_path / "checkout")


def write_lock(checkout: Checkout, letter: str) -> None:
    text = f"schema: '2.0'\nstages:\n  train:\n    outs:\n    - path: models/phase1\n      md5: {letter * 32}.dir\n"
    (checkout.root / "dvc.lock").write_text(text, encoding="utf-8")


def commit(checkout: Checkout, letter: str, message: str) -> None:
    write_lock(checkout, letter)
    checkout.commit(message)


def named(checkout: Checkout) -> dict[str, Revision]:
    """By the letter that its object is made of."""
    return {oid[0]: revision for revision in revisions(Workspace(checkout.root)) for oid in revision.outs.values()}


def test_every_commit_names_its_run(repository: Checkout) -> None:
    for letter, message in ("a", "First"), ("b", "Second"), ("c", "Third"):
        commit(repository, letter, message)
    repository.run("git", "tag", "--annotate", "--message", "Good", "v1", "HEAD~1")
    repository.run("git", "branch", "side")
    commit(repository, "d", "Fourth")
    by_letter = named(repository)
    assert by_letter["d"].who == "HEAD, branch main"
    assert by_letter["c"].who == "branch side"
    assert by_letter["b"].who == "tag v1"
    assert by_letter["a"].who.startswith("commit ")
    assert by_letter["a"].who.endswith("(First)")
    assert {letter for letter, revision in by_letter.items() if revision.is_tip} == {"b", "c", "d"}
    assert {letter for letter, revision in by_letter.items() if revision.is_pinned} == {"b"}
    assert list(by_letter)[-1] == "a"


def test_parameters_of_a_commit_are_read_as_dvc_reads_them(repository: Checkout) -> None:
    """`dvc exp run -S train_phase2.lr=1e-5` writes 1e-05: to YAML 1.1 a text."""
    (repository.root / "params.yaml").write_text("train_phase2:\n  lr: 1e-05\n")
    repository.commit()
    assert params_at(Workspace(repository.root), "HEAD") == {"train_phase2": {"lr": 1e-5}}


def test_worktrees_do_each_by_a_way_of_its_own(repository: Checkout) -> None:
    """`git stash` here would not bring back what another worktree is at."""
    for letter in "abc":
        commit(repository, letter, letter)
    places = {}
    for letter, commits in ("a", "HEAD~2"), ("b", "HEAD~1"):
        places[letter] = (repository.root.parent / f"at {letter}").as_posix()
        repository.run("git", "worktree", "add", "--quiet", "--detach", places[letter], commits)
    by_letter = named(repository)
    assert by_letter["c"].way_back == "git stash && dvc checkout"
    for letter, place in places.items():
        revision = by_letter[letter]
        assert (revision.who, revision.is_tip) == (f"HEAD of {place}", True)
        assert revision.way_back == f"git checkout {revision.commit[:9]} && dvc checkout"
    [elsewhere] = [each for each in revisions(Workspace(Path(places["a"]))) if each.who == "HEAD"]
    assert elsewhere.outs == by_letter["a"].outs


def test_head_is_ones_own_where_another_worktree_is_at_the_same_commit(repository: Checkout) -> None:
    """A checkout of the commit that one is at would leave an edited dvc.lock as it is."""
    commit(repository, "a", "First")
    beside = repository.root.parent / "beside"
    repository.run("git", "worktree", "add", "--quiet", "--detach", str(beside), "HEAD")
    for root in repository.root, beside:
        [found] = revisions(Workspace(root))
        assert found.who.startswith("HEAD") and "HEAD of" not in found.who
        assert found.way_back == "git stash && dvc checkout"


@pytest.mark.parametrize("how", ["submodule", "moved"])
def test_head_is_known_where_git_keeps_its_folder_elsewhere(repository: Checkout, how: str) -> None:
    commit(repository, "a", "First")
    place = repository.root.parent / how
    if how == "submodule":
        repository.run("git", "init", "--quiet", str(place))
        add = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository.root), "voice")
        repository.run("git", "-C", str(place), *add)
        place /= "voice"
    else:
        repository.run("git", "worktree", "add", "--quiet", "--detach", str(place), "HEAD")
        place = place.rename(repository.root.parent / "moved by hand")
    [found] = revisions(Workspace(place))
    assert (found.who.partition(",")[0], found.way_back) == ("HEAD", "git stash && dvc checkout")


def test_stashes_the_index_and_experiments_do(repository: Checkout) -> None:
    commit(repository, "a", "First")
    for letter in "bc":
        write_lock(repository, letter)
        repository.run("git", "stash", "--quiet")
    write_lock(repository, "d")
    repository.run("git", "add", "dvc.lock")
    write_lock(repository, "e")
    tip = repository.run("git", "rev-parse", "stash@{0}").stdout.strip()
    for ref in ("refs/exps/ab/cdef/tipsy-lamb", "refs/exps/exec/EXEC_APPLY"):
        repository.run("git", "update-ref", ref, tip)
    by_letter = named(repository)
    assert by_letter["b"].who == "git's stash@{1}"
    assert by_letter["c"].who == "experiment tipsy-lamb, git's stash@{0}"
    assert by_letter["d"].who == "staged for a commit"
    assert "e" not in by_letter
    assert all(by_letter[letter].is_tip for letter in "abcd")


def test_what_dvc_keeps_for_itself_names_nothing(repository: Checkout) -> None:
    """EXEC_APPLY outlives the experiment that `dvc exp remove` deletes."""
    commit(repository, "a", "First")
    commit(repository, "b", "An experiment")
    repository.run("git", "update-ref", "refs/exps/exec/EXEC_APPLY", "HEAD")
    repository.run("git", "reset", "--quiet", "--hard", "HEAD~1")
    assert set(named(repository)) == {"a"}


def test_side_branches_that_a_merge_did_not_take_up_do(repository: Checkout) -> None:
    commit(repository, "a", "First")
    repository.run("git", "checkout", "--quiet", "-b", "side")
    commit(repository, "b", "On the side")
    repository.run("git", "checkout", "--quiet", "main")
    commit(repository, "c", "Second")
    repository.run("git", "merge", "--quiet", "--strategy", "ours", "--message", "Ours", "side")
    repository.run("git", "branch", "--delete", "side")
    assert set(named(repository)) == {"a", "b", "c"}


def test_dvc_files_and_half_merged_locks_do(repository: Checkout) -> None:
    recordings = f"outs:\n- md5: {'d' * 32}.dir\n  path: data\n"
    (repository.root / "data.dvc").write_text(recordings, encoding="utf-8")
    commit(repository, "a", "First")
    halves = "".join(
        f"{mark}\n      md5: {letter * 32}.dir\n" for mark, letter in (("<<<<<<< HEAD", "b"), ("=======", "c"))
    )
    (repository.root / "dvc.lock").write_text(f"stages:\n{halves}>>>>>>> side\n", encoding="utf-8")
    repository.run("git", "commit", "--quiet", "--all", "--message", "Oh no")
    assert set(named(repository)) == {"a", "b", "c", "d"}


def test_a_project_in_a_folder_of_a_repository_knows_its_own(tmp_path: Path) -> None:
    repository = workspaces.repository(tmp_path / "all")
    projects = [Checkout(repository.root / name) for name in ("one", "two")]
    for project, letter in zip(projects, "ab", strict=True):
        project.root.mkdir()
        write_lock(project, letter)
    repository.commit("Both")
    found = [[each.outs for each in revisions(Workspace(project.root))] for project in projects]
    assert found == [[{"models/phase1": f"{letter * 32}.dir"}] for letter in "ab"]


def test_git_is_not_asked_more_often_where_there_are_more_experiments(
    repository: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process each would be a second of `status` where there are hundreds."""
    asked = []
    run = subprocess.run

    def counting(*arguments: Any, **settings: Any) -> Any:
        asked.append(arguments)
        return run(*arguments, **settings)

    counts = []
    for letters in "a", "bcdef":
        for letter in letters:
            commit(repository, letter, letter)
            repository.run("git", "update-ref", f"refs/exps/ab/cdef/{letter}", "HEAD")
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "run", counting)
            assert all(revision.is_pinned for revision in revisions(Workspace(repository.root)))
        counts.append(len(asked))
        asked.clear()
    assert set(named(repository)) == set("abcdef")
    assert counts[0] == counts[1]


def test_what_may_name_an_object_is_told_by_its_text_alone(repository: Checkout) -> None:
    """But for texts that YAML spells otherwise: those are not passed over."""
    commit(repository, "a", "First")
    [plain] = revisions(Workspace(repository.root))
    assert plain.may_name({"a" * 32}) and not plain.may_name({"b" * 32})
    escaped = f'outs:\n- md5: "\\x62{"b" * 31}.dir"\n  path: data\n'
    (repository.root / "data.dvc").write_text(escaped, encoding="utf-8")
    repository.commit("Escaped")
    [head, *_] = revisions(Workspace(repository.root))
    assert head.outs["data"] == f"{'b' * 32}.dir"
    assert head.may_name({"b" * 32})


def test_dvc_files_of_several_folders_name_each_their_own(repository: Checkout) -> None:
    """Outs of the same name: their paths are relative to the file. Of one alone `clean` let the other's objects go."""
    for folder, letter in ("anna", "a"), ("bert", "b"), ("with\u2028odd name", "c"):
        (repository.root / folder).mkdir()
        (repository.root / folder / "clips.dvc").write_text(f"outs:\n- md5: {letter * 32}.dir\n  path: clips\n")
    repository.commit("Recordings of three")
    repository.run("git", "tag", "release")
    for folder in "anna", "bert":
        (repository.root / folder / "clips.dvc").unlink()
    repository.commit("Only one is left")
    outs = {path: oid for each in revisions(Workspace(repository.root)) for path, oid in each.outs.items()}
    assert set(outs.values()) == {f"{letter * 32}.dir" for letter in "abc"}
    assert outs["anna/clips"] == f"{'a' * 32}.dir"
    assert len(outs) == 3


def test_what_is_merged_from_elsewhere_in_a_file_is_named(repository: Checkout) -> None:
    merged = f"x: &x {{md5: {'a' * 32}.dir}}\nouts: [{{<<: *x, path: data}}]\n"
    (repository.root / "data.dvc").write_text(merged, encoding="utf-8")
    repository.commit()
    assert set(named(repository)) == {"a"}


def test_settings_of_gits_for_paths_hide_nothing(repository: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository.root / "data.dvc").write_text(f"outs:\n- md5: {'a' * 32}.dir\n  path: data\n", encoding="utf-8")
    repository.commit()
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    assert set(named(repository)) == {"a"}


def test_outside_of_a_repository_and_before_the_first_commit_nothing_is(repository: Checkout, tmp_path: Path) -> None:
    assert revisions(Workspace(repository.root)) == []
    assert revisions(Workspace(tmp_path)) == []


def test_where_git_cannot_say_nothing_is_taken_for_unnamed(repository: Checkout) -> None:
    commit(repository, "a", "First")
    (repository.root / ".git" / "HEAD").write_text("nonsense", encoding="utf-8")
    with pytest.raises(UserError, match="git cannot be asked"):
        revisions(Workspace(repository.root))


def test_where_git_has_lost_what_a_branch_had_neither(repository: Checkout) -> None:
    commit(repository, "a", "First")
    tree = repository.run("git", "rev-parse", "HEAD^{tree}").stdout.strip()
    (repository.root / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(UserError, match="git has lost"):
        revisions(Workspace(repository.root))


def test_without_git_itself_neither(repository: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_git(*arguments: object, **settings: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", no_git)
    with pytest.raises(UserError, match="git is not installed"):
        revisions(Workspace(repository.root))


def test_states_other_than_heads_of_the_same_model(repository: Checkout) -> None:
    def name(model: str, states: str) -> None:
        named = {"models/phase1": model * 32, "checkpoints/phase1": states * 32}
        outs = [{"path": path, "md5": oid} for path, oid in named.items()]
        content = yaml.safe_dump({"stages": {"train": {"outs": outs}}})
        (repository.root / "dvc.lock").write_text(content, encoding="utf-8")

    workspace = Workspace(repository.root)
    name("a", "b")
    assert not has_other_states_than_head(workspace), "there is no commit"
    repository.commit()
    assert not has_other_states_than_head(workspace)
    name("c", "d")
    assert not has_other_states_than_head(workspace), "another run"
    name("a", "d")
    assert has_other_states_than_head(workspace)
    repository.commit()
    assert not has_other_states_than_head(workspace)


def test_where_a_commit_would_be_on_no_branch(repository: Checkout, tmp_path: Path) -> None:
    workspace = Workspace(repository.root)
    assert not is_detached(workspace)  # nothing is committed yet
    commit(repository, "a", "First")
    assert not is_detached(workspace)
    repository.run("git", "checkout", "--quiet", "--detach")
    assert is_detached(workspace)
    (tmp_path / "none").mkdir()
    assert not is_detached(Workspace(tmp_path / "none"))


def test_parameters_of_a_commit(repository: Checkout) -> None:
    params = repository.root / "params.yaml"
    contents = {"one": "seed: 1\n", "broken": "a: [", "list": "- 1\n", "none": ""}
    for name, text in contents.items():
        params.write_text(text, encoding="utf-8")
        repository.commit(name)
    found = [params_at(Workspace(repository.root), f"HEAD~{back}") for back in (3, 2, 1, 0)]
    assert found == [{"seed": 1}, {}, {}, {}]
    assert params_at(Workspace(repository.root), "f" * 40) == {}
