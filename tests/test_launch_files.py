"""launch/: for clusters that are not here. Their syntax, and what they start, with stand-ins for what clusters have."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout
from making.params import starter
from making.project import PROJECT

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.layout import Workspace
from xtts_finetune.stages.check import check

SLURM, SKY = PROJECT / "launch" / "slurm.sbatch", PROJECT / "launch" / "sky.yaml"
# https://docs.skypilot.co/en/latest/reference/yaml-spec.html
SKY_KEYS = {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "file_mounts", "setup", "run", "config"}
STAND_INS = {
    "scontrol": """
        case "$1" in
            show) echo gpu-1; echo gpu-2 ;;
            requeue) echo "requeued $2" ;;
        esac""",
    "srun": 'echo "srun $@ for $XTTS_FINETUNE_RENDEZVOUS"',
    ".venv/bin/dvc": """
        trap 'echo "asked to stop"; exit 255' INT
        echo "dvc $@ at $XTTS_FINETUNE_RENDEZVOUS"
        [ -z "$LONG" ] || { sleep 20 & wait; }""",
}


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    for name, script in STAND_INS.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/bash\n{script}\n")
        file.chmod(0o755)
    return tmp_path


def submitted(cluster: Path, **environment: str) -> "subprocess.Popen[str]":
    of_slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "gpu-[1-2]"}
    of_slurm["SLURM_CPUS_PER_TASK"] = "8"
    path = f"{cluster}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(SLURM)],
        cwd=cluster,
        env=os.environ | of_slurm | {"PATH": path} | environment,
        stdout=subprocess.PIPE,
        text=True,
        # bash traps no signal that it was started to ignore, as is one that a shell started in the background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_slurm_starts_dvc_on_the_first_machine_and_join_on_the_others(cluster: Path) -> None:
    job = submitted(cluster)
    said, _ = job.communicate(timeout=60)
    assert job.returncode == 0
    assert "dvc repro at gpu-1:20007\n" in said
    options = "--nodes=1 --ntasks=1 --exclude=gpu-1 --cpus-per-task=8"
    join = f"srun {options} .venv/bin/xtts-finetune join for gpu-1:20007\n"
    assert join in said and "requeued" not in said


@pytest.mark.slow
def test_slurm_saves_and_comes_back_when_its_time_is_up(cluster: Path) -> None:
    job = submitted(cluster, LONG="yes")
    assert job.stdout
    while "dvc repro" not in job.stdout.readline():
        pass
    time.sleep(1)  # bash sets its trap after it has started dvc
    job.send_signal(signal.SIGTERM)
    said, _ = job.communicate(timeout=60)
    assert "asked to stop" in said
    assert "requeued 7" in said


def test_what_slurm_is_asked_for() -> None:
    asked = [line.removeprefix("#SBATCH --") for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH")]
    options = dict(line.partition("=")[::2] for line in asked)
    assert options["nodes"] == "2" and options["ntasks-per-node"] == "1" and options["signal"].startswith("B:TERM@")


def test_sky_can_be_read() -> None:
    task = yaml.safe_load(SKY.read_text())
    assert task.keys() <= SKY_KEYS
    assert isinstance(task["num_nodes"], int) and task["workdir"] == "."
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("rank", "expected"), [("0", "dvc repro at a:29400\ndvc push"), ("1", "dvc repro prepare at 127.0.0.1:29400\n")]
)
def test_sky_starts_dvc_on_the_first_machine(cluster: Path, rank: str, expected: str) -> None:
    (cluster / ".venv" / "bin" / "xtts-finetune").symlink_to(cluster / "srun")
    given = {"SKYPILOT_NODE_IPS": "a\nb", "SKYPILOT_NODE_RANK": rank}
    done = subprocess.run(
        ["bash", "-c", yaml.safe_load(SKY.read_text())["run"]],
        cwd=cluster, env=os.environ | given, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith(expected)
    assert ("srun join for a:29400" in done.stdout) == (rank == "1")


def test_what_a_machine_that_joins_may_prepare_as(fresh: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` asks whether this machine can be the first: it must be able to listen there."""
    launch = starter().launch.model_copy(update={"nodes": 2})
    params = starter().model_copy(update={"launch": launch})
    monkeypatch.setenv("XTTS_FINETUNE_RENDEZVOUS", "192.0.2.1:29400")  # another machine's
    with pytest.raises(UserError, match=r"on all machines but the first: .*xtts-finetune join"):
        check(Workspace(fresh.root), params)
    monkeypatch.setenv("XTTS_FINETUNE_RENDEZVOUS", "127.0.0.1:0")
    with pytest.raises(UserError) as other:  # there are no recordings
        check(Workspace(fresh.root), params)
    assert "listened" not in str(other.value)
