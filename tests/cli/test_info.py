"""`audiodiff info`: the machine, and what a model folder holds, for people and as JSON."""

from __future__ import annotations

import json
import re

import pytest
import torch
from click.testing import CliRunner

from audiodiff import __version__
from audiodiff.checkpoint import load_model, save_model
from audiodiff.cli.main import main
from audiodiff.config import ModelConfig, NetworkConfig


def info(*arguments):
    result = CliRunner().invoke(main, ["info", *map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_the_machine():
    facts = json.loads(info("--json"))
    assert facts["versions"]["audiodiff"] == __version__
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["machine"]["cpu_threads"] == torch.get_num_threads()
    assert len(facts["machine"]["gpus"]) == torch.cuda.device_count()
    assert f"torch       {torch.__version__}" in info()


def test_bundled_models_are_listed(monkeypatch, tiny_vocoder_folder, tiny_generator_folder):
    models = {"speech-22k": tiny_vocoder_folder, "words": tiny_generator_folder}
    monkeypatch.setattr("audiodiff.checkpoint.bundled_models", lambda: models)
    assert json.loads(info("--json"))["bundled_models"] == {
        "speech-22k": "vocoder for custom mels, 8000 Hz, the default",
        "words": "generator of 2 classes, 8000 Hz",
    }
    assert json.loads(info("words", "--json"))["labels"] == ["yes", "no"]


def test_a_vocoder(tmp_path, tiny_vocoder_folder):
    network, config = load_model(tiny_vocoder_folder)
    provenance = {"data": [{"name": "a corpus", "licence": "public domain"}], "hours": 24.0}
    config = config.model_copy(update={"provenance": provenance})
    save_model(tmp_path / "model", network.state_dict(), config)
    facts = json.loads(info(tmp_path / "model", "--json"))
    for part in ("mel", "whitening", "diffusion", "synthesis", "provenance"):
        assert facts[part] == config.model_dump(mode="json")[part]
    assert facts["kind"] == "vocoder for custom mels"
    assert facts["network"]["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert facts["network"]["receptive_field_samples_each_side"] == network.receptive_field
    assert facts["network"]["receptive_field_seconds_each_side"] == pytest.approx(network.receptive_field / 8000)
    assert "patch" not in facts["network"]  # means nothing to a network on frames
    text = info(tmp_path / "model")
    for line in (
        "sample rate hz  8000",
        "  hop length       64",
        "  sampler                 ddim",
        "      licence  public",
    ):
        assert f"\n{line}" in text


def test_a_generator(tiny_generator_folder):
    facts = json.loads(info(tiny_generator_folder, "--json"))
    assert (facts["kind"], facts["labels"], facts["clip_seconds"]) == ("generator of 2 classes", ["yes", "no"], 0.5)
    assert facts["network"]["patch"] == 8
    assert re.search(r"\nlabels +yes, no\n", info(tiny_generator_folder))


def test_long_lists_of_numbers_are_summarised(tmp_path, tiny_vocoder_folder):
    network, config = load_model(tiny_vocoder_folder)
    gain = tuple(1 + i / 63 for i in range(64))
    config = config.model_copy(update={"whitening": config.whitening.model_copy(update={"gain": gain})})
    save_model(tmp_path / "model", network.state_dict(), config)
    assert "gain      64 values from 1 to 2" in info(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "message"), [("no/such/model", "no model 'no/such/model'"), (".", "has no config.json")]
)
def test_what_is_no_model_is_refused(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["info", name])
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


@pytest.mark.parametrize("attention", [0, 1])
def test_a_unet_tells_its_levels_and_how_far_it_sees(attention, tmp_path, save_random_model):
    levels = {"patch": 4, "factors": (2,), "multipliers": (1, 4), "blocks": (1, 1), "attention": attention}
    config = ModelConfig(sample_rate=8000, network=NetworkConfig(kind="unet", channels=8, **levels))
    facts = json.loads(info(save_random_model(tmp_path / "model", config), "--json"))["network"]
    assert facts["factors"] == [2]
    assert "layers" not in facts
    assert (facts.get("receptive_field") == "the whole clip") == bool(attention)
    assert ("receptive_field_samples_each_side" in facts) == (not attention)
