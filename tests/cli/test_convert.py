"""`audiodiff convert` writes a folder that the other verbs take, and helps where a file cannot be converted."""

import math
import os
import pickle
import shlex
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from audiodiff.checkpoint import WEIGHTS, load_config, load_model
from audiodiff.cli.main import main
from audiodiff.data.mels import load_mel
from audiodiff.errors import MelError, ModelError
from audiodiff.interop import convert_checkpoint

# A network of lmnt-com/diffwave with 4 channels and 2 layers, by the names and shapes of its file.
C, WIDTH, N_MELS = 4, 8, 80


def lmnt_tensors(unconditional=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layers = {
        "input_projection": (C, 1, 1),
        "diffusion_embedding.projection1": (WIDTH, 128),
        "diffusion_embedding.projection2": (WIDTH, WIDTH),
        "skip_projection": (C, C, 1),
        "output_projection": (1, C, 1),
    }
    for i in range(2):
        layers[f"residual_layers.{i}.dilated_conv"] = (2 * C, C, 3)
        layers[f"residual_layers.{i}.diffusion_projection"] = (C, WIDTH)
        layers[f"residual_layers.{i}.output_projection"] = (2 * C, C, 1)
        if not unconditional:
            layers[f"residual_layers.{i}.conditioner_projection"] = (2 * C, N_MELS, 1)
    if not unconditional:
        layers |= {f"spectrogram_upsampler.conv{i}": (1, 1, 3, 32) for i in (1, 2)}
    tensors = {}
    for name, shape in layers.items():
        tensors[f"{name}.weight"] = 0.3 * torch.randn(shape, generator=generator)
        tensors[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return tensors


PARAMS = {
    "sample_rate": 22050, "n_mels": 80, "n_fft": 1024, "hop_samples": 256, "residual_layers": 2, "residual_channels": C,
    "dilation_cycle_length": 10, "noise_schedule": np.linspace(1e-4, 0.05, 50).tolist(),
    "inference_noise_schedule": [0.0001, 0.001, 0.01, 0.05, 0.2, 0.5],
}  # fmt: skip


@pytest.fixture
def convert(tmp_path):
    """Save a checkpoint, convert it, and return the result of the command and the folder."""

    def run(content, *options):
        path = content
        if not isinstance(content, os.PathLike):
            path = tmp_path / "weights.pt"
            torch.save(content, path)
        arguments = ["convert", path, tmp_path / "model", *options]
        return CliRunner().invoke(main, [str(argument) for argument in arguments]), tmp_path / "model"

    return run


def checkpoint(params=PARAMS, **options):
    return {"step": 7, "model": lmnt_tensors(**options), "optimizer": {}, "params": params, "scaler": {}}


def test_a_vocoder_is_converted_and_said_in_one_line(convert):
    result, folder = convert(checkpoint())
    assert result.exit_code == 0, result.stderr
    assert result.stdout == (
        f"{folder}: vocoder for lmnt mels of lmnt-com/diffwave, 4 channels, 2 layers, 22050 Hz, 0.0 MB\n"
    )
    assert result.stderr == ""
    network, config = load_model(folder)
    assert (config.synthesis.schedule, config.synthesis.steps, config.synthesis.sampler) == ("diffwave", 6, "ddpm")
    abar = math.prod(1 - beta for beta in PARAMS["noise_schedule"])
    assert config.diffusion.log_snr_min == pytest.approx(math.log(abar / (1 - abar)))
    assert config.diffusion.log_snr_max == pytest.approx(math.log(0.9999 / 0.0001))
    assert network.stack.layers[1].dilation == 2


def test_the_other_verbs_take_the_folder(convert, tmp_path):
    _, folder = convert(checkpoint())
    np.save(tmp_path / "mel.npy", np.random.default_rng(0).random((80, 4), dtype=np.float32))
    arguments = ["vocode", tmp_path / "mel.npy", "--model", folder, "--output", tmp_path / "made.wav"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    assert "pure noise" not in result.stderr
    assert soundfile.info(tmp_path / "made.wav").frames == 4 * 256
    shown = CliRunner().invoke(main, ["info", str(folder)]).stdout
    assert "lmnt-com/diffwave" in shown
    assert "50 values from 0.0001 to 0.05" in shown


def test_a_generator_is_converted_with_its_whole_process(convert):
    params = PARAMS | {"unconditional": True, "audio_len": 11025}
    result, folder = convert(checkpoint(params, unconditional=True))
    assert "generator of lmnt-com/diffwave" in result.stdout
    config = load_config(folder)
    assert (config.synthesis.schedule, config.synthesis.steps, config.clip_seconds) == ("diffwave_50", 50, 0.5)
    made = CliRunner().invoke(
        main, ["generate", "--model", str(folder), "--seconds", "0.01", "-o", str(folder / "wav")]
    )
    assert made.exit_code == 0, made.stderr
    assert "pure noise" not in made.stderr


def test_what_the_file_does_not_say_is_taken_as_published_and_said(convert):
    result, folder = convert(lmnt_tensors())
    assert result.exit_code == 0, result.stderr
    for said in (
        "sample_rate: taken as published, 22050",
        "dilation_cycle: taken as",
        "betas: taken as published, 0.0001:",
    ):
        assert said in result.stderr
    assert load_config(folder).network.dilation_cycle == 10


def test_what_the_file_does_not_say_can_be_said(convert):
    options = ("--sample-rate", 24000, "--dilation-cycle", 1, "--betas", "1e-4:0.02:200", "--from", "lmnt")
    result, folder = convert(lmnt_tensors(), *options)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    config = load_config(folder)
    assert (config.sample_rate, config.mel.f_max, config.network.dilation_cycle) == (24000, 12000, 1)
    assert config.mel.name == "lmnt at 24000 Hz, hop 256"
    assert config.network.embedding.betas == pytest.approx(np.linspace(1e-4, 0.02, 200))
    assert config.synthesis.schedule == "diffwave_large"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sample-rate", 16000), "says sample_rate = 22050, --sample-rate says 16000. Leave --sample-rate out"),
        (("--dilation-cycle", 7), "says dilation_cycle = 10, --dilation-cycle says 7"),
        (("--betas", "1e-4:0.02:50"), "says betas = 0.0001:0.05:50, --betas says 0.0001:0.02:50"),
        (("--from", "philsyn"), "is of project lmnt, not philsyn"),
    ],
)
def test_what_contradicts_the_file_is_refused(convert, options, said):
    result, folder = convert(checkpoint(), *options)
    assert result.exit_code == 1
    assert said in result.stderr
    assert not folder.exists()


def test_what_agrees_with_the_file_is_no_contradiction(convert):
    result, _ = convert(checkpoint(), "--sample-rate", 22050, "--betas", "1e-4:0.05:50", "--dilation-cycle", 10)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("betas", ["0.1", "1e-4:0.05", "1e-4:0.05:x", "1e-4:0.05:1", "0:0.05:50", "1e-4:1:50"])
def test_betas_of_another_form_are_a_usage_error(convert, betas):
    result, _ = convert(checkpoint(), "--betas", betas)
    assert result.exit_code == 2
    assert betas in result.stderr


def test_fast_sampling_of_its_own_is_kept(convert):
    result, folder = convert(checkpoint(PARAMS | {"inference_noise_schedule": [0.1, 0.5]}))
    assert result.exit_code == 0
    assert load_config(folder).synthesis.log_snrs == pytest.approx([math.log(0.45 / 0.55), math.log(0.9 / 0.1)])


# --- files that cannot be converted -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"residual_channels": 64}, "params say residual_channels = 64, its tensors 4"),
        ({"residual_layers": 30}, "params say residual_layers = 30, its tensors 2"),
        ({"n_mels": 128}, "params say n_mels = 128, its tensors 80"),
        ({"hop_samples": 300}, "params say hop_samples = 300, its tensors 256"),
        ({"unconditional": True}, "params say unconditional = True, its tensors False"),
        ({"sample_rate": "22k"}, "params say sample_rate = '22k'; expected a whole number"),
        ({"noise_schedule": [0.1, 2.0]}, "params say noise_schedule = [0.1, 2.0]; expected a list of numbers between"),
        ({"noise_schedule": []}, "params say noise_schedule = []; expected a list of numbers between"),
        ({"n_fft": 512}, "need hop_length <= win_length <= n_fft, got 256, 1024, 512"),
    ],
)
def test_params_that_contradict_the_tensors_are_refused(convert, change, said):
    result, folder = convert(checkpoint(PARAMS | change))
    assert result.exit_code == 1
    assert said in result.stderr
    assert not folder.exists()


def without(name):
    return {key: value for key, value in lmnt_tensors().items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (without("skip_projection.bias"), "has no tensor skip_projection.bias"),
        (without("input_projection.weight"), "has no tensor input_projection.weight"),
        (lmnt_tensors() | {"skip_projection.weight": torch.zeros(5, 4, 1)}, r"shape (5, 4, 1), but (4, 4, 1) follows"),
        (lmnt_tensors() | {"input_projection.weight": torch.zeros(4)}, "has shape (4,); expected 3 dimensions"),
        (
            lmnt_tensors() | {"another.weight": torch.zeros(4)},
            "1 tensors that this network does not know, such as another",
        ),
        (lmnt_tensors() | {"skip_projection.bias": torch.full((4,), math.nan)}, "skip_projection.bias holds NaN"),
        ({"encoder.weight": torch.zeros(4)}, "is of no network that is known here (lmnt-com/diffwave, philsyn"),
        ({}, "is of no network that is known here"),
        (lmnt_tensors() | {"step": 3}, "holds no weights: expected a dictionary of names and tensors"),
        ([torch.zeros(3)], "holds a list; expected the dictionary"),
        ({"model": lmnt_tensors(), "params": [1]}, "its params are a list; expected a dictionary"),
        ({"model": [1]}, "holds no weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_of_something_else_are_refused(convert, tensors, said):
    result, folder = convert(tensors)
    assert result.exit_code == 1
    assert said in result.stderr
    assert not folder.exists()


class Bomb:
    """What a malicious file may hold: loading it with plain pickle writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_file_that_holds_code_is_refused_and_not_run(convert, form, tmp_path):
    content, path = {"model": lmnt_tensors(), "params": Bomb(tmp_path / "exploded")}, tmp_path / "bomb.pkl"
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    result, folder = convert(path)
    assert result.exit_code == 1
    assert not (tmp_path / "exploded").exists()
    assert not folder.exists()
    what = "torch." if form == "pickle" else f"{os.mkdir.__module__}.mkdir, so it is refused and nothing was run"
    assert f"holds code: loading it would run {what}" in result.stderr
    # the same file is armed indeed
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert (tmp_path / "exploded").exists()


CODE = """
import pathlib, torch, numpy as np
from torch import nn

class Params(dict):
    pass

class Saver:
    def state_dict(self):
        return torch.load("tensors.pt")

def content(form):
    tensors, params = torch.load("tensors.pt"), Params(torch.load("params.pt"))
    params["noise_schedule"] = np.array(params["noise_schedule"])
    params["sample_rate"] = np.int64(params["sample_rate"])
    wrapped = {"params": params, "optimizer": {0: {"step": np.float64(3)}, "lr": (1e-3, None)}}
    wrapped["path"] = pathlib.PurePosixPath("x")
    if form == "object":
        return wrapped | {"model": Saver()}
    if form == "ordered":
        return wrapped | {"state_dict": Params({name: nn.Parameter(value) for name, value in tensors.items()})}
    return wrapped | {"model": {name: value.numpy() if form == "pickle" else value for name, value in tensors.items()}}
"""


@pytest.mark.parametrize(
    "form", ["zip", *(pytest.param(name, marks=pytest.mark.slow) for name in ("object", "legacy", "pickle", "ordered"))]
)
def test_the_advice_for_a_refused_file_works(convert, form, tmp_path):
    torch.save(lmnt_tensors(), tmp_path / "tensors.pt")
    torch.save(PARAMS, tmp_path / "params.pt")
    (tmp_path / "theirs.py").write_text(CODE)
    path = tmp_path / "it's weights $1.pt"
    save = (
        "pickle.dump(made, open(sys.argv[1], 'wb'))"
        if form == "pickle"
        else (f"torch.save(made, sys.argv[1], _use_new_zipfile_serialization={form != 'legacy'})")
    )
    code = f"import pickle, sys, torch, theirs; made = theirs.content('{form}'); {save}"
    subprocess.run([sys.executable, "-c", code, path], check=True, cwd=tmp_path)
    result, _ = convert(path)
    assert result.exit_code == 1
    assert "so it is refused" in result.stderr
    (line,) = result.stderr.splitlines()
    advice = line.partition("and convert plain.pt: python ")[2]
    subprocess.run(f"{shlex.quote(sys.executable)} {advice}", shell=True, check=True, cwd=tmp_path)
    result, folder = convert(tmp_path / "plain.pt")
    assert result.exit_code == 0, result.stderr
    assert load_config(folder).network.dilation_cycle == 10
    assert load_config(folder).sample_rate == PARAMS["sample_rate"]


def prefixed(prefix, tensors=None):
    return {prefix + name: value for name, value in (tensors or lmnt_tensors()).items()}


WRAPPERS = {
    "data parallel": lambda: {"model": prefixed("module."), "params": PARAMS},
    "compiled": lambda: {"model": prefixed("_orig_mod."), "params": PARAMS},
    "both": lambda: {"model": prefixed("module._orig_mod."), "params": PARAMS},
    "the other way": lambda: {"model": prefixed("_orig_mod.module."), "params": PARAMS},
    "a part compiled": lambda: {
        "model": {name.replace("0.dilated", "0._orig_mod.dilated"): value for name, value in lmnt_tensors().items()},
        "params": PARAMS,
    },
    "state_dict": lambda: {"state_dict": lmnt_tensors(), "params": PARAMS},
    "two levels": lambda: {"checkpoint": {"generator": prefixed("module.")}, "params": PARAMS},
    "lightning": lambda: {
        "state_dict": prefixed("model.") | {"loss.window": torch.ones(3)},
        "pytorch-lightning_version": "2.4.0", "global_step": 12, "epoch": 1, "params": PARAMS,
        "optimizer_states": [{"state": {}}], "loops": {}, "callbacks": {}, "hparams_name": None,
    },
    "averaged": lambda: {"ema": prefixed("module.") | {"n_averaged": torch.tensor(4)}, "params": PARAMS},
    "ema beside": lambda: {"model": zeroed(), "ema": lmnt_tensors(), "params": PARAMS},
    "ema inside": lambda: {"state_dict": prefixed("model.", zeroed()) | prefixed("model_ema."), "params": PARAMS},
    "ema-pytorch": lambda: {"ema": prefixed("online_model.", zeroed()) | prefixed("ema_model."), "params": PARAMS},
    "ema incomplete": lambda: {
        "model": lmnt_tensors(), "params": PARAMS,
        "ema": {name: value for name, value in zeroed().items() if "bias" not in name},
    },
}  # fmt: skip


def zeroed():
    return {name: torch.zeros_like(value) for name, value in lmnt_tensors().items()}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_wraps_weights_is_understood(convert, wrapper, tmp_path):
    result, plain = convert(checkpoint())
    assert result.exit_code == 0, result.stderr
    expected = load_model(plain)[0].state_dict()
    torch.save(WRAPPERS[wrapper](), tmp_path / "wrapped.pt")
    network, config = convert_checkpoint(tmp_path / "wrapped.pt")
    assert config.network == load_config(plain).network
    assert all(torch.equal(network.state_dict()[name], value) for name, value in expected.items())
    assert config.provenance.get("training_steps") == ("12" if wrapper == "lightning" else None)


def test_several_weights_and_what_is_beside_them_are_named(tmp_path, caplog):
    caplog.set_level("INFO")
    for wrapper in ("ema beside", "ema incomplete", "lightning"):
        torch.save(WRAPPERS[wrapper](), tmp_path / "x.pt")
        convert_checkpoint(tmp_path / "x.pt")
    assert "x.pt holds weights several times: ema is taken, not model" in caplog.text
    assert "x.pt holds weights several times: model is taken, not ema" in caplog.text
    assert "x.pt: 1 entries beside state_dict.model are left out, such as loss.window" in caplog.text


def test_safetensors_are_read(convert, tmp_path):
    save_file(lmnt_tensors(), tmp_path / "weights.safetensors")
    result, _ = convert(tmp_path / "weights.safetensors")
    assert result.exit_code == 0, result.stderr
    (tmp_path / "weights.safetensors").write_bytes(b"x" * 100)
    result, _ = convert(tmp_path / "weights.safetensors")
    assert "weights.safetensors is damaged or no safetensors file" in result.stderr


def test_the_keys_of_a_file_that_is_not_understood_are_listed(convert):
    content = {"epoch": 3, "encoder": {"layers": {"conv.weight": torch.zeros(3)}}, "config": {"a": 1}, "best": None}
    result, _ = convert(content)
    assert result.exit_code == 1
    assert "It holds 'epoch' (int), 'encoder' (1 tensors), 'config' (dict), 'best' (NoneType)." in result.stderr
    result, _ = convert({str(number): number for number in range(20)})
    assert "holds no weights" in result.stderr
    assert "'7' (int) and 12 more." in result.stderr


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 27500000\n"
STRANGE = {
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "sparse_csr": lambda t: t.to_sparse_csr(),
    "nested": lambda t: torch.nested.nested_tensor(list(t)),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "complex64": lambda t: t.to(torch.complex64),
    "int64": lambda t: t.long(),
    "bool": lambda t: t.bool(),
    "fewer values": lambda t: torch.zeros(1, 1).expand(t.shape),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", STRANGE)
def test_strange_tensors_are_refused_by_name(convert, kind, tmp_path):
    name = "diffusion_embedding.projection2.weight"
    result, folder = convert({"model": lmnt_tensors() | {name: STRANGE[kind](lmnt_tensors()[name])}, "params": PARAMS})
    assert result.exit_code == 1
    assert not folder.exists()
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert f"{name} " in line
    assert kind in line
    assert "unexpected" not in line
    path = tmp_path / "mel.pt"
    torch.save(STRANGE[kind](torch.randn(80, 20)), path)
    with pytest.raises(MelError, match=f"mel.pt .*{kind}"):
        load_mel(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LFS, "is a Git LFS pointer, not the file itself. Run `git lfs pull`"),
        (b"\n<!DOCTYPE html>\n<html><head><title>weights.pt at main</title>", "is a web page, not the file itself"),
        (b"\xef\xbb\xbf<HTML lang='en'>", "is a web page, not the file itself"),
    ],
)
def test_what_a_download_left_instead_is_named(convert, content, said, tmp_path):
    for name in ("weights.pt", "weights.safetensors", "mel.npy", "mel.pt"):
        (tmp_path / name).write_bytes(content)
        result, _ = convert(tmp_path / name)
        assert (result.exit_code, f"{name} {said}" in result.stderr) == (1, True)
        if name.startswith("mel"):
            with pytest.raises(MelError, match=said):
                load_mel(tmp_path / name)
    result, folder = convert(checkpoint())
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match=said):
        load_model(folder)


def test_archives_of_others_are_named(convert, tmp_path):
    np.savez(tmp_path / "weights.pt.npz", **{name: value.numpy() for name, value in lmnt_tensors().items()})
    result, _ = convert(tmp_path / "weights.pt.npz")
    assert "is an archive, but not of torch.save. Unpack it" in result.stderr
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    result, _ = convert(tmp_path / "script.pt")
    assert "is a TorchScript program; expected weights. Save its state_dict()" in result.stderr


@pytest.mark.parametrize("damage", ["empty", "text", "zeros", "cut", "cut legacy", "random"])
def test_a_damaged_file_is_called_so(convert, damage, tmp_path):
    path = tmp_path / "damaged.pt"
    torch.save(checkpoint(), path, _use_new_zipfile_serialization=damage != "cut legacy")
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"no checkpoint, but some words",
            "zeros": bytes(1000),
            "cut": whole[: len(whole) // 2],
            "cut legacy": whole[: len(whole) // 2],
            "random": np.random.default_rng(0).bytes(5000),
        }[damage]
    )
    result, folder = convert(path)
    assert result.exit_code == 1
    assert f"{path} is damaged, or was not written by torch.save" in result.stderr
    assert not folder.exists()


def test_a_missing_file_is_named(convert, tmp_path):
    result, _ = convert(tmp_path / "nowhere.pt")
    assert result.exit_code == 1
    assert "nowhere.pt is no file. Give the checkpoint itself" in result.stderr
