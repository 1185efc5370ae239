"""The network that completes mels is trained from a manifest, and its weights are what completion reads."""

import torch
from safetensors.torch import load_file

from audiodiff.audio.mel_completion import MelCompletion
from audiodiff.data.manifest import Recording, write_manifest
from audiodiff.training.mel_completion import train_mel_completion


def test_the_loss_falls_and_the_weights_can_be_read(save_voice, tmp_path):
    recordings = [
        Recording(audio=save_voice(tmp_path / f"{i}.wav", 1.0, 16000), sample_rate=16000, seconds=1.0) for i in range(3)
    ]
    write_manifest(tmp_path / "train.jsonl", recordings)
    losses: list[float] = []
    torch.set_num_threads(1)
    train_mel_completion(
        tmp_path / "train.jsonl",
        tmp_path / "weights.safetensors",
        minutes=0.1,
        log_every=10,
        on_log=lambda line: losses.append(float(line.split()[-1])),
    )
    assert losses[-1] < losses[0] - 0.1
    weights = load_file(tmp_path / "weights.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    MelCompletion().load_state_dict({name: value.float() for name, value in weights.items()})
