"""`audiodiff export` writes a model that loads, is smaller if wished, and tells where it comes from."""

import pytest
from click.testing import CliRunner
from torch.testing import assert_close

from audiodiff.checkpoint import load_config, load_model
from audiodiff.cli.main import main


@pytest.fixture
def export(tiny_vocoder_folder, tmp_path):
    def run(*options):
        arguments = ["export", tiny_vocoder_folder, tmp_path / "out", *options]
        return CliRunner().invoke(main, [str(argument) for argument in arguments]), tmp_path / "out"

    return run


def test_a_model_is_copied(export, tiny_vocoder_folder):
    result, folder = export()
    assert result.exit_code == 0, result.stderr
    (before, config), (after, copied) = load_model(tiny_vocoder_folder), load_model(folder)
    assert copied == config
    assert_close(after.state_dict(), before.state_dict(), rtol=0, atol=0)


def test_half_is_half_the_size_and_nearly_the_same(export, tiny_vocoder_folder):
    _, folder = export("--half")
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, tiny_vocoder_folder)]
    assert sizes[0] < 0.6 * sizes[1]
    before, after = (load_model(path)[0].state_dict() for path in (tiny_vocoder_folder, folder))
    assert_close(after, before, rtol=1e-3, atol=1e-4)


def test_provenance_and_settings_are_stored(export, tmp_path):
    (tmp_path / "notes.yaml").write_text("licence: MIT\ndata: [mine]\n")
    _, folder = export("--provenance", tmp_path / "notes.yaml", "--set", "synthesis.steps=7")
    config = load_config(folder)
    assert config.provenance["licence"] == "MIT"
    assert config.provenance["data"] == ["mine"]
    assert config.synthesis.steps == 7


@pytest.mark.parametrize(("notes", "said"), [("[", "cannot be read as YAML"), ("- a", "is not a mapping")])
def test_provenance_that_is_none_is_named(export, tmp_path, notes, said):
    (tmp_path / "notes.yaml").write_text(notes)
    result, folder = export("--provenance", tmp_path / "notes.yaml")
    assert result.exit_code == 1
    assert said in result.stderr
    assert not folder.exists()


def test_an_impossible_setting_is_named(export):
    result, folder = export("--set", "synthesis.steps=0")
    assert result.exit_code == 1
    assert "synthesis.steps" in result.stderr
    assert not folder.exists()
