"""Model folders: what is saved comes back, and whatever else lies in a folder is refused by name."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audiodiff import Generator, Vocoder
from audiodiff.checkpoint import (
    CONFIG,
    WEIGHTS,
    bundled_models,
    copy_model,
    find_model,
    load_config,
    load_model,
    save_model,
)
from audiodiff.errors import ConfigError, ModelError, OutputError


@pytest.fixture
def folder(tiny_vocoder_folder, tmp_path):
    """A model folder to break."""
    return Path(shutil.copytree(tiny_vocoder_folder, tmp_path / "model"))


def test_a_folder_whose_name_is_no_utf_8_is_read(folder, tmp_path):
    moved = folder.rename(tmp_path / os.fsdecode(b"\xed\xa0\x80"))
    assert Vocoder.from_pretrained(moved).sample_rate == load_config(moved).sample_rate


def rewrite(folder, change):
    """Change config.json as a mapping."""
    document = json.loads((folder / CONFIG).read_text())
    change(document)
    (folder / CONFIG).write_text(json.dumps(document))


def reweigh(folder, change):
    """Change model.safetensors as a mapping."""
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


# --- what is saved comes back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["tiny_vocoder_folder", "tiny_generator_folder"])
def test_round_trip(model, request, tmp_path):
    network, config = load_model(request.getfixturevalue(model))
    save_model(tmp_path / "new", network.state_dict(), config)
    again, same = load_model(tmp_path / "new")
    assert same == config == load_config(tmp_path / "new")
    assert not again.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [CONFIG, WEIGHTS]


def test_half_precision_halves_the_file_and_hardly_changes_the_weights(folder, tmp_path):
    network, config = load_model(folder)
    save_model(tmp_path / "half", network.state_dict(), config, half=True)
    again, _ = load_model(tmp_path / "half")
    for name, tensor in network.state_dict().items():
        loaded = again.state_dict()[name]
        assert loaded.dtype == torch.float32
        torch.testing.assert_close(loaded, tensor, rtol=2**-11, atol=2**-24)
        if tensor.dim() < 2:  # few and delicate: biases, centres, statistics
            assert torch.equal(loaded, tensor)
    sizes = [(path / WEIGHTS).stat().st_size for path in (folder, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_copy_has_the_same_bits_and_another_configuration(folder, tmp_path):
    network, config = load_model(folder)
    save_model(tmp_path / "half", network.state_dict(), config, half=True)
    changed = config.model_copy(update={"clip_seconds": 3.0})
    for target in (tmp_path / "copy", tmp_path / "half"):
        copy_model(tmp_path / "half", target, changed)
        assert load_config(target) == changed
    assert (tmp_path / "copy" / WEIGHTS).read_bytes() == (tmp_path / "half" / WEIGHTS).read_bytes()
    assert load_file(tmp_path / "copy" / WEIGHTS)["output.weight"].dtype == torch.float16


def test_saving_again_replaces_the_model_and_spares_what_lies_beside(folder):
    network, config = load_model(folder)
    (folder / "README.md").write_text("about this model")
    (folder / "samples").mkdir()
    weights = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    save_model(folder, weights, config)
    assert all(not tensor.any() for tensor in load_model(folder)[0].state_dict().values())
    assert (folder / "README.md").read_text() == "about this model"
    assert (folder / "samples").is_dir()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_failure_while_saving_leaves_the_older_model_alone(folder, monkeypatch):
    network, config = load_model(folder)

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr("audiodiff.checkpoint.save", full)
    with pytest.raises(OSError, match="no space"):
        save_model(folder, network.state_dict(), config)
    monkeypatch.undo()
    load_model(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_file_is_not_replaced(folder, tmp_path):
    network, config = load_model(folder)
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ModelError, match="notes is a file"):
        save_model(tmp_path / "notes", network.state_dict(), config)
    assert (tmp_path / "notes").read_text() == "mine"


def test_what_holds_no_model_is_kept_and_links_to_folders_stay(folder, tmp_path):
    network, config = load_model(folder)
    weights = network.state_dict()
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "README").write_text("mine")
    (tmp_path / "link").symlink_to("disk")
    for _ in range(2):
        save_model(tmp_path / "link", weights, config)
        assert (tmp_path / "link").is_symlink()
        assert sorted(os.listdir(tmp_path / "disk")) == ["README", CONFIG, WEIGHTS]
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / CONFIG).write_text('{"name": "of another program"}')
    with pytest.raises(
        ModelError, match="project/config.json is of something else than a model of audiodiff, and is kept"
    ):
        save_model(tmp_path / "project", weights, config)
    assert os.listdir(tmp_path / "project") == [CONFIG]
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "/dev/null"):
        with pytest.raises(ModelError, match="is a file; a model is written to a folder"):
            save_model(tmp_path / name, weights, config)
    for name, message in (
        ("n" * 255, None),
        ("n" * 256, "File name too long. Choose a shorter name"),
        ("project/config.json/x", "It is a file"),
    ):
        with nullcontext() if message is None else pytest.raises(OutputError, match=message):
            save_model(tmp_path / name, weights, config)
    load_model(tmp_path / ("n" * 255))


# --- what is wrong with a folder --------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "no folder": (shutil.rmtree, "no model '.*'. Give a bundled model"),
    "no config": (lambda folder: (folder / CONFIG).unlink(), "has no config.json, so it is not a model folder"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "has no model.safetensors"),
    "cut config": (lambda folder: truncate(folder / CONFIG), "cannot be read as JSON"),
    "binary config": (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe\x00"), "cannot be read as JSON"),
    "foreign config": (lambda folder: (folder / CONFIG).write_text('{"model_type": "wav2vec2"}'), "was not written by"),
    "list as config": (lambda folder: (folder / CONFIG).write_text("[]"), "was not written by audiodiff"),
    "newer format": (
        lambda folder: rewrite(folder, lambda document: document.update(audiodiff_model=99)),
        "has format 99, this version reads 1. Update audiodiff",
    ),
    "cut weights": (lambda folder: truncate(folder / WEIGHTS), "is damaged or no safetensors file"),
    "empty weights": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "is damaged or no safetensors file"),
    "pickled weights": (lambda folder: torch.save({}, folder / WEIGHTS), "is damaged or no safetensors file"),
    "foreign weights": (
        lambda folder: save_file({"encoder.weight": torch.zeros(3)}, folder / WEIGHTS),
        r"tensors are missing \['.*1 are foreign \['encoder.weight'\]",
    ),
    "one tensor less": (
        lambda folder: reweigh(folder, lambda weights: weights.pop("skip.bias")),
        r"1 tensors are missing \['skip.bias'\], 0 are foreign",
    ),
    "other width": (
        lambda folder: reweigh(folder, lambda weights: weights.update({"skip.bias": torch.zeros(31)})),
        r"skip.bias has shape \(31,\), config.json asks for \(32,\)",
    ),
    "config of another": (
        lambda folder: rewrite(folder, lambda document: document["config"]["network"].update(channels=16)),
        r"has shape .*, config.json asks for",
    ),
    "NaN": (
        lambda folder: reweigh(folder, lambda weights: weights["skip.weight"][3].fill_(torch.nan)),
        "skip.weight holds NaN or infinity. The training run that wrote it had diverged",
    ),
    "infinity": (
        lambda folder: reweigh(folder, lambda weights: weights["skip.bias"].fill_(torch.inf)),
        "skip.bias holds NaN or infinity",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(folder, damage):
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document["config"].update(sample_rate=-1), "sample_rate: -1 is not a whole number from 1 to"),
        (lambda document: document["config"].update(colour="red"), "colour: unknown key"),
        (lambda document: document.pop("config"), r"invalid configuration \(.*config.json\)"),
    ],
)
def test_a_config_that_does_not_validate_is_explained(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(ConfigError, match=message):
        load_model(folder)


# --- names of models --------------------------------------------------------------------------------------------------


def test_names_are_folders_or_bundled(monkeypatch, folder, tmp_path):
    monkeypatch.setattr("audiodiff.checkpoint.bundled_models", lambda: {"speech-22k": folder})
    assert find_model() == find_model("speech-22k") == folder
    assert find_model(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path)
    assert load_model(find_model("model"))[1] == load_config(folder)
    with pytest.raises(
        ModelError, match=r"no model 'speech-44k'. Give a bundled model \(speech-22k\), a model folder, or a hub id"
    ):
        load_model(find_model("speech-44k"))


@pytest.mark.parametrize("name", bundled_models())
def test_every_bundled_model_makes_sound(name):
    config = load_config(find_model(name))
    assert {"name", "licence", "data", "held_out", "compute"} <= config.provenance.keys()
    assert config.provenance["name"] == name
    if config.mel is None:
        audio = Generator.from_pretrained(name, "cpu").generate(config.labels[0], steps=4)[0, 0]
        assert len(audio) == round(config.clip_seconds * config.sample_rate)
    else:
        recording = 0.1 * torch.randn(config.sample_rate, generator=torch.Generator().manual_seed(0))
        audio = (vocoder := Vocoder.from_pretrained(name, "cpu"))(vocoder.mel(recording))
    assert 1e-3 < float(audio.square().mean().sqrt()) < 0.5


def test_a_hub_model_that_cannot_be_had_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="hub did not deliver nobody/nothing: .*Check the name and the network"):
        find_model("hub:nobody/nothing")
    for name in ("hub:so strange/**", "hub:nobody", "hub:../nobody", "hub:a/b/c", "hub:https://x.org/a"):
        with pytest.raises(ModelError, match="is no name of the hub; expected hub:OWNER/NAME"):
            find_model(name)


@pytest.mark.parametrize(
    "name", ["exp/comands", "owner/model", "./exp/a", "exp/run/best", "~/model", "a b/c", "model "]
)
def test_only_names_that_say_so_ask_the_hub(monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(ModelError, match="no model '.*'. Give a bundled model") as caught:
        find_model(name)
    advised = str(caught.value).partition("A model of the Hugging Face hub is ")[2]
    assert advised == (f"hub:{name}." if name in ("exp/comands", "owner/model") else "")


def test_a_hub_model_is_fetched_into_a_folder(monkeypatch, folder):
    asked = []

    def download(hub_id, allow_patterns):
        asked.append((hub_id, sorted(allow_patterns)))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert find_model("hub:someone/speech") == folder
    assert asked == [("someone/speech", [CONFIG, WEIGHTS])]  # never anything that could be run


def test_weights_can_be_read_by_whoever_can_read_the_configuration(tiny_vocoder_folder):
    modes = {path.name: path.stat().st_mode & 0o777 for path in tiny_vocoder_folder.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_loading_draws_no_weights_that_it_replaces(folder):
    """So it is quick, and leaves the random state of the caller alone."""
    before = torch.get_rng_state()
    network, _ = load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in load_file(folder / WEIGHTS).items():
        assert torch.equal(network.state_dict()[name], value.float())


def test_weights_whose_sum_overflows_are_finite(folder):
    path = folder / WEIGHTS
    weights = load_file(path)
    name = next(name for name, value in weights.items() if value.numel() > 2)
    weights[name][:] = 3e38
    save_file(weights, path)
    assert load_model(folder)[0].state_dict()[name].min() == weights[name].max()


@pytest.mark.parametrize(
    ("value", "half", "message"), [(float("nan"), False, "NaN"), (1e6, True, "in float16. Leave --half")]
)
def test_weights_that_are_not_finite_are_not_written(value, half, message, folder, tmp_path):
    network, config = load_model(folder)
    weights = network.state_dict()
    name = next(name for name, tensor in weights.items() if tensor.dim() > 1)
    weights[name] = torch.full_like(weights[name], value)
    with pytest.raises(ModelError, match=message):
        save_model(tmp_path / "new", weights, config, half=half)
    assert not (tmp_path / "new").exists()
