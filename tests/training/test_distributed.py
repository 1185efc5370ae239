"""Several processes train as one with a larger batch would, and alone nothing of it is even imported."""

import os
import socket
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch
import yaml

from audiodiff.config import DataConfig, RunConfig
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import CropDataset, Replica
from audiodiff.data.manifest import scan_folder
from audiodiff.errors import TrainingError
from audiodiff.training.checkpoints import RunFolder
from audiodiff.training.distributed import init_distributed
from audiodiff.training.loss_curve import load_curve
from audiodiff.training.trainer import train

ROOT = Path(__file__).parents[2]


def test_processes_read_different_examples_and_together_what_one_reads(speech_folder):
    dataset = CropDataset(scan_folder(speech_folder).recordings, CropReader(8000, 640), DataConfig(train="x"), seed=0)
    alone = list(islice(dataset.batches(2, 6), 3))
    parts = [list(islice(dataset.batches(2, 2, replica=Replica(rank, 3)), 3)) for rank in range(3)]
    for step, batch in enumerate(alone):
        assert torch.equal(batch.audio, torch.cat([part[step].audio for part in parts]))
    audio = [part[0].audio for part in parts]
    assert not any(torch.equal(audio[i], audio[j]) for i in range(3) for j in range(i))


@pytest.mark.parametrize("world_size", ["2", "x"])
def test_a_team_that_nobody_has_started_is_refused(world_size, monkeypatch):
    state = pytest.importorskip("accelerate.state")
    monkeypatch.setenv("WORLD_SIZE", world_size)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(TrainingError, match=f"WORLD_SIZE is {world_size}, and the processes cannot find each other"):
        init_distributed("cpu")
    state.AcceleratorState._reset_state(True)


def test_alone_nothing_of_it_is_imported(tmp_path, tiny_run_config):
    (tmp_path / "conf.json").write_text(tiny_run_config.model_copy().model_dump_json())
    code = (
        "import sys\nfrom pathlib import Path\nfrom audiodiff.config import RunConfig\n"
        "from audiodiff.training.distributed import init_distributed\nfrom audiodiff.training import trainer\n"
        "distributed = init_distributed('cpu')\nassert distributed.world_size == 1 and distributed.is_main_process\n"
        "print('accelerate' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout == "False\n"


def launched(
    tmp_path: Path, config: RunConfig, run: Path, *options: str, program: tuple[str, ...] = ("-m", "audiodiff")
) -> list[subprocess.Popen]:
    """Start two processes as `accelerate launch` and torchrun do: through their environment."""
    path = tmp_path / f"{run.name}.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, *program, "train", path, "--run", run, *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [subprocess.Popen(command, env=os.environ | address | rank, **pipes) for rank in ranks]


def ended(processes: list[subprocess.Popen], code: int = 0) -> tuple[str, str]:
    """Wait for both, and return all that they said."""
    said = [process.communicate(timeout=300) for process in processes]
    stdout, stderr = ("".join(part) for part in zip(*said, strict=True))
    assert [process.returncode for process in processes] == [code, code], stderr
    return stdout, stderr


def weights(run):
    checkpoint = RunFolder(run).newest()
    return torch.cat([value.flatten() for value in checkpoint.state["network"].values()])


def changed(config, data=None, **settings):
    parts = {"training": settings, "data": data or {}}
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=update) for name, update in parts.items()}
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "option", [{}, {"few_step_weight": 0.5, "steps": 2}, {"gradient_checkpointing": True}], ids=str
)
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path, tiny_run_config, option):
    # The few-step loss has logarithms of spectra, which blow rounding up: two steps of it are compared, not eight.
    config = changed(tiny_run_config, data={"mel_noise_db": 1.0}, sample_every=100, **option)
    train(changed(config, batch_size=8), tmp_path / "one")
    stdout, stderr = ended(launched(tmp_path, config, tmp_path / "two"))
    assert stdout.count(f"step {config.training.steps} of") == 1  # one process speaks
    assert stderr.count(f"step {config.training.steps}: validation loss") == 1
    torch.testing.assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"), atol=2e-5, rtol=1e-3)
    ours, theirs = (load_curve(tmp_path / run / "curve.json").points for run in ("two", "one"))
    assert [point.valid for point in ours] == pytest.approx([point.valid for point in theirs], rel=1e-4)


@pytest.mark.slow
def test_two_processes_that_accumulate_train_as_one_with_four_times_the_batch(tmp_path, tiny_run_config):
    config = changed(tiny_run_config, data={"mel_noise_db": 1.0}, sample_every=100)
    train(changed(config, batch_size=8), tmp_path / "one")
    ended(launched(tmp_path, changed(config, batch_size=2, gradient_accumulation_steps=2), tmp_path / "two"))
    torch.testing.assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"), atol=2e-5, rtol=1e-3)


SLOW_VALIDATION = """
import os, sys, time
import torch
from audiodiff.__main__ import main
from audiodiff.training.state import TrainState
from audiodiff.training.validation import Validator

def say(*words):
    print(*words, time.time(), flush=True)

step, validate = TrainState.step, Validator.__call__

def timed_step(state, *arguments, **named):
    results = step(state, *arguments, **named)
    say("rank", os.environ["RANK"], "step", state.progress.step)
    return results

def slow_validation(validator, network):
    say("validation begins")
    time.sleep(2)
    result = validate(validator, network)
    say("validation ends")
    return result

TrainState.step, Validator.__call__ = timed_step, slow_validation
main()
"""


@pytest.mark.slow
def test_the_others_wait_for_a_slow_validation(tmp_path, tiny_run_config):
    config = changed(tiny_run_config, sample_every=100)
    train(changed(config, batch_size=8), tmp_path / "one")
    stdout, _ = ended(launched(tmp_path, config, tmp_path / "two", program=("-c", SLOW_VALIDATION)))
    said = [line.split() for line in stdout.splitlines()]
    begins, ends = (
        [float(line[-1]) for line in said if line[:2] == ["validation", what]] for what in ("begins", "ends")
    )
    steps = {(line[1], int(line[3])): float(line[-1]) for line in said if line[0] == "rank"}
    assert len(begins) == len(ends) == 4  # twice, each on validation and on training crops
    assert ("1", 8) in steps
    assert steps["0", 4] < begins[0] < ends[1] < steps["1", 5]  # the other has waited in the middle of a step
    torch.testing.assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"), atol=2e-5, rtol=1e-3)


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate launch": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_launchers_start_such_a_team(tmp_path, tiny_run_config, tiny_vocoder_folder, launcher):
    """Adapters are trained, so that most weights have no gradient to share."""
    config = changed(tiny_run_config, sample_every=100, trained="adapters", initial_model=str(tiny_vocoder_folder))
    train(changed(config, batch_size=8), tmp_path / "one")
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "audiodiff", "train", path, "--run-dir"]
    result = subprocess.run([*command, tmp_path / "two"], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("step 8 of 8") == 1
    assert "deprecated" not in result.stderr
    torch.testing.assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"), atol=2e-5, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_that_are_told_to_stop_save_at_the_same_step_and_go_on(tmp_path, tiny_run_config):
    config = changed(tiny_run_config, steps=100_000, checkpoint_every=100_000, sample_every=100_000)
    processes = launched(tmp_path, config, tmp_path / "two")
    deadline = time.monotonic() + 200
    while not (tmp_path / "two" / "best").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    processes[1].terminate()  # one of the two: the other learns of it
    ended(processes, 143)
    (checkpoint,) = RunFolder(tmp_path / "two").checkpoints()
    step = int(checkpoint.name.removeprefix("step-"))
    stdout, _ = ended(launched(tmp_path, changed(config, steps=step + 2), tmp_path / "two", "--allow-changes"))
    assert f"step {step + 2} of {step + 2}" in stdout
