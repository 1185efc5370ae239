"""The Slurm script of egs/cluster, with a stand-in for Slurm: processes train as one, and go on after a requeue."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from audiodiff.training.checkpoints import RunFolder
from audiodiff.training.trainer import train

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "egs" / "cluster" / "train.sbatch"
SRUN = """#!/bin/bash
for id in 0 1; do SLURM_PROCID=$id SLURM_LOCALID=$id SLURM_NTASKS=2 "$@" & ids+=($!); done
trap 'kill -USR1 "${ids[@]}"' USR1
echo "${ids[@]}" > "$FAKE/pids"
worst=0
for id in "${ids[@]}"; do
  code=1000
  while kill -0 "$id" 2> /dev/null || [ "$code" = 1000 ]; do wait "$id"; code=$?; done
  [ "$code" -gt "$worst" ] && worst=$code
done
exit "$worst"
"""
SCONTROL = (
    '#!/bin/bash\nif [ "$1" = show ]; then echo 127.0.0.1; echo elsewhere; else echo "$@" >> "$FAKE/requeued"; fi\n'
)


@pytest.fixture
def submit(tmp_path):
    fake = tmp_path / "slurm"
    fake.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (fake / name).write_text(text)
        (fake / name).chmod(0o755)
    job = str(os.getpid())
    environment = os.environ | {
        **{"FAKE": str(fake), "SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "a[1-2]", "OMP_NUM_THREADS": "1"},
        **{"PATH": f"{fake}:{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
    }

    def start(*arguments):
        return subprocess.Popen(
            ["bash", SCRIPT, *arguments], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )

    return start, fake, job


def test_it_says_how_it_is_used(submit):
    process = submit[0]("conf.yaml")
    assert "usage: sbatch [--nodes=N]" in process.communicate(timeout=20)[1]
    assert process.returncode == 2


def test_its_options_are_those_of_slurm():
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    assert options["signal"] == "USR1@300"
    assert options["gpus-per-node"] == options["ntasks-per-node"]
    assert "requeue" in options


@pytest.mark.slow
def test_a_job_that_runs_out_of_time_goes_on_in_the_queue(tmp_path, tiny_run_config, submit):
    start, fake, job = submit
    update = {"sample_every": 10_000, "validate_every": 10_000, "checkpoint_every": 10_000, "steps": 100}
    training = tiny_run_config.training.model_copy(update=update)
    config = tiny_run_config.model_copy(update={"training": training})
    (tmp_path / "conf.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    first = start("conf.yaml", "run")
    while not (tmp_path / "run" / "tensorboard").is_dir():
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.05)
    for pid in (fake / "pids").read_text().split():  # as Slurm signals each process
        os.kill(int(pid), signal.SIGUSR1)
    _, said = first.communicate(timeout=300)
    assert first.returncode == 138, said
    assert (fake / "requeued").read_text() == f"requeue {job}\n"
    assert RunFolder(tmp_path / "run").newest().state["progress"]["step"] < 100
    again = start("conf.yaml", "run")
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert (fake / "requeued").read_text() == f"requeue {job}\n"
    larger = training.model_copy(update={"batch_size": 2 * training.batch_size})
    train(config.model_copy(update={"training": larger}), tmp_path / "one")
    ours, theirs = (
        torch.cat([value.flatten() for value in RunFolder(tmp_path / run).newest().state["network"].values()])
        for run in ("run", "one")
    )
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-2)
