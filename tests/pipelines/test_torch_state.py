"""What a caller has set in torch changes no bit, and is set again afterwards; arrays and numbers of NumPy are taken."""

import contextlib
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from audiodiff import Generator, Vocoder
from audiodiff.audio.degradation import Gaps
from audiodiff.audio.io import save_audio
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.resample import resample
from audiodiff.config import MEL_CONVENTIONS
from audiodiff.errors import AudioError, ConfigError, MelError
from audiodiff.networks.base import isolated
from audiodiff.pipelines.repair import RepairConfig, repair

RATE = 8000


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
        assert torch.get_default_device().type == device
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def without_gradients():
    torch.set_grad_enabled(False)
    try:
        yield
    finally:
        torch.set_grad_enabled(True)


STATES = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype float16": lambda: default_dtype(torch.float16),
    "default device meta": lambda: default_device("meta"),
    "device meta": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "grad": torch.enable_grad,
    "grad is set off": without_gradients,
    "deterministic algorithms": deterministic,
}


@pytest.fixture(params=STATES)
def state(request):
    return STATES[request.param]


@pytest.fixture(scope="module")
def audio(voice) -> Tensor:
    return torch.from_numpy(voice(0.5, RATE, 1))[None]


def outputs(vocoder_folder, generator_folder, audio):
    """Make what there is to make, of models that are loaded here."""
    vocoder = Vocoder.from_pretrained(vocoder_folder, "cpu", "fp32")
    generator = Generator.from_pretrained(generator_folder, "cpu", "fp32")
    gap = Gaps(((0.2, 0.25),), RATE)
    made = {
        "weights": vocoder.network.state_dict(),
        "mel": (mel := vocoder.mel(audio)),
        "call": vocoder(mel, seed=3),
        "griffin-lim": vocoder(mel, seed=3, start="griffin-lim", griffin_lim_iterations=2),
        "phase-gradient": vocoder(mel, seed=3, start="phase-gradient", griffin_lim_iterations=1),
        "chunks": vocoder(mel, seed=3, chunk_seconds=0.1),
        "stream": torch.cat(list(vocoder.stream(mel[0].split(7, dim=-1), seed=3, chunk_seconds=0.1)), -1),
        "clips": generator.generate("yes", 2, 0.1, seed=4),
        "repair": repair(vocoder, audio, gap, RepairConfig(rounds=1), steps=2),
        "dps": repair(generator, audio, gap, RepairConfig(rounds=1, dps_strength=0.1), label="yes", steps=2),
    }
    weights = made.pop("weights")
    return made | {f"weights {name}": value for name, value in weights.items()}


def test_everything_is_the_same_bits(state, tiny_vocoder_folder, tiny_generator_folder, audio):
    expected = outputs(tiny_vocoder_folder, tiny_generator_folder, audio)
    with state():
        found = outputs(tiny_vocoder_folder, tiny_generator_folder, audio)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype == torch.float32 or "weights" in name, name
        assert found[name].device.type == "cpu"
        assert np.array_equal(found[name].detach().numpy(), value.detach().numpy()), name


def test_models_loaded_elsewhere_too(state, tiny_vocoder_folder, audio):
    vocoder = Vocoder.from_pretrained(tiny_vocoder_folder, "cpu", "fp32")
    expected = vocoder(vocoder.mel(audio), seed=3)
    with state():
        found = vocoder(vocoder.mel(audio), seed=3)
    assert np.array_equal(found.numpy(), expected.numpy())


def test_a_plain_spectrogram_is_the_same_bits(state, voice):
    sound = torch.from_numpy(voice(0.3, 22050, 1))
    expected = MelSpectrogram(MEL_CONVENTIONS["hifigan-22k"])(sound)
    with state():
        found = MelSpectrogram(MEL_CONVENTIONS["hifigan-22k"])(sound)
    assert np.array_equal(found.numpy(), expected.numpy())


def test_a_stream_leaves_the_callers_state_alone_between_pieces(tiny_vocoder_folder, audio):
    vocoder = Vocoder.from_pretrained(tiny_vocoder_folder, "cpu", "fp32")
    mel = vocoder.mel(audio)[0]
    with default_dtype(torch.float64), torch.autocast("cpu"):
        for _ in vocoder.stream(mel.split(7, dim=-1), chunk_seconds=0.1):
            assert torch.get_default_dtype() == torch.float64
            assert torch.is_autocast_enabled("cpu")
            assert torch.is_grad_enabled()
        stream = vocoder.stream(mel.split(7, dim=-1), chunk_seconds=0.1)
        next(stream)
        stream.close()
        assert torch.get_default_dtype() == torch.float64


def test_mels_have_gradients_where_the_caller_wants_them(tiny_vocoder_folder, audio):
    vocoder = Vocoder.from_pretrained(tiny_vocoder_folder, "cpu", "fp32")
    assert vocoder.mel(audio.clone().requires_grad_()).requires_grad


def test_calls_in_several_threads_give_the_default_dtype_back_once():
    entered, leave = threading.Barrier(3), threading.Event()

    @isolated("off")
    def wait():
        entered.wait()
        leave.wait()
        return torch.get_default_dtype()

    seen = []
    with default_dtype(torch.float64):
        threads = [threading.Thread(target=lambda: seen.append(wait())) for _ in range(2)]
        for thread in threads:
            thread.start()
        entered.wait()
        leave.set()
        for thread in threads:
            thread.join()
    assert seen == [torch.float32, torch.float32]


def test_an_error_gives_the_state_back(tiny_vocoder_folder):
    vocoder = Vocoder.from_pretrained(tiny_vocoder_folder, "cpu", "fp32")
    with default_dtype(torch.float64), pytest.raises(MelError):
        vocoder(torch.zeros(1, 2, 3))


# --- arrays and numbers -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocoder(tiny_vocoder_folder):
    return Vocoder.from_pretrained(tiny_vocoder_folder, "cpu", "fp32")


@pytest.fixture(scope="module")
def generator(tiny_generator_folder):
    return Generator.from_pretrained(tiny_generator_folder, "cpu", "fp32")


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "change",
    [
        lambda array: array,
        lambda array: array.astype(">f4"),
        lambda array: read_only(array.copy()),
        lambda array: array[..., ::-1].copy()[..., ::-1],
        lambda array: np.asfortranarray(array),
    ],
)
def test_arrays_are_taken_as_tensors_are(change, vocoder, audio):
    """And what comes back is what was given."""

    def same(made, expected):
        return isinstance(made, np.ndarray) and torch.equal(torch.from_numpy(made), expected)

    mel = vocoder.mel(audio)
    assert same(vocoder.mel(change(audio.numpy())), mel)
    assert same(vocoder(change(mel.numpy()), seed=1), vocoder(mel, seed=1))
    pieces = vocoder.stream([change(mel[0].numpy())], seed=1, chunk_seconds=0.1)
    whole = vocoder.stream([mel[0]], seed=1, chunk_seconds=0.1)
    assert same(np.concatenate(list(pieces)), torch.cat(list(whole)))
    assert torch.equal(resample(change(audio.numpy()), RATE, 4000), resample(audio, RATE, 4000))
    gap = Gaps(((0.2, 0.25),), RATE)
    assert torch.equal(repair(vocoder, change(audio.numpy()), gap, steps=1), repair(vocoder, audio, gap, steps=1))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[0.0, 1.0]], "{} is of type list; expected a torch.Tensor or a numpy.ndarray"),
        ("sound.wav", "{} is of type str; expected a torch.Tensor"),
        (None, "{} is of type NoneType"),
        (np.array([["a"]]), "{} is an array of <U1"),
        (np.zeros((1, 4000), object), "{} is an array of object"),
        (np.zeros((1, 4000), complex), "{} is an array of complex128"),
        (np.ma.masked_array(np.zeros((1, 4000)), True), "{} is of type MaskedArray"),
        (torch.zeros(1, 4000, device="meta"), "{} is a meta tensor"),
        (torch.zeros(1, 4000).to_sparse(), "{} is a torch.sparse_coo tensor"),
        (torch.zeros(1, 4000).to(torch.float8_e5m2), "{} is a torch.float8_e5m2 tensor"),
        (torch.nested.nested_tensor([torch.zeros(2)]), "{} is a nested tensor"),
    ],
    ids=str,
)
def test_anything_else_is_refused_in_a_sentence(value, message, vocoder, tmp_path):
    with pytest.raises(AudioError, match=message.format("audio")):
        vocoder.mel(value)
    with pytest.raises(AudioError, match=message.format("audio")):
        repair(vocoder, value, Gaps(((0.2, 0.25),), RATE))
    with pytest.raises(AudioError, match="audio for .*x.wav is "):
        save_audio(tmp_path / "x.wav", value, RATE)
    with pytest.raises(MelError, match=message.format("mel")):
        vocoder(value)
    with pytest.raises(MelError, match=message.format("mel")):
        list(vocoder.stream([value]))


def test_integers_are_no_audio(vocoder):
    with pytest.raises(AudioError, match=r"audio is torch.int16; expected floating point in \[-1, 1\]"):
        vocoder.mel(np.zeros((1, 4000), np.int16))
    with pytest.raises(AudioError, match="audio of 0 samples is too short"):
        vocoder.mel(np.array(0.5))


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.float64, torch.tensor, float])
def test_whole_numbers_of_every_origin_are_seeds(kind, vocoder, generator, audio):
    mel = vocoder.mel(audio)
    assert torch.equal(vocoder(mel, seed=kind(7)), vocoder(mel, seed=7))
    assert torch.equal(vocoder(mel, seed=[kind(7)]), vocoder(mel, seed=7))
    clips = generator.generate("yes", kind(2), 0.1, seed=kind(7), steps=kind(2))
    assert torch.equal(clips, generator.generate("yes", 2, 0.1, seed=7, steps=2))
    assert torch.equal(vocoder(mel, seed=np.array([7])), vocoder(mel, seed=7))


@pytest.mark.parametrize("seed", [True, 1.5, "1", float("nan"), float("inf"), None, 10**30, np.True_, [True], "12"])
def test_anything_else_is_no_seed(seed, vocoder, generator, audio):
    for call in (
        lambda: vocoder(vocoder.mel(audio), seed=seed),
        lambda: list(vocoder.stream([vocoder.mel(audio)[0]], seed=seed)),
        lambda: generator.generate("yes", 1, 0.1, seed=seed),
        lambda: repair(vocoder, audio, Gaps(((0.2, 0.25),), RATE), seed=seed),
    ):
        with pytest.raises(ConfigError, match="seed"):
            call()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 1e300, 10**400, True, [1]])
def test_numbers_beyond_their_bounds_are_refused(value, vocoder, generator, audio):
    mel = vocoder.mel(audio)
    with pytest.raises(ConfigError, match="chunk_seconds: .* is not a number above 0 and at most 3,600"):
        next(vocoder.stream([mel[0]], chunk_seconds=value))
    with pytest.raises(ConfigError, match="count: .* is not a whole number from 1 to 1,000,000"):
        generator.generate("yes", value, 0.1)
    with pytest.raises(ConfigError, match="seconds: .* is not a number above 0 and at most 3,600"):
        generator.generate("yes", 1, value)
    with pytest.raises(ConfigError, match="dps_strength: .* is not a number from 0 to 100"):
        RepairConfig(dps_strength=value)
    for name in ("steps", "corrector_snr", "start_log_snr" if value not in (-1, True) else "steps"):
        with pytest.raises(ConfigError, match=f"{name}: .* is not a (whole )?number"):
            generator.generate("yes", 1, 0.1, **{name: value})


def test_text_is_no_number(vocoder, audio):
    with pytest.raises(ConfigError, match="chunk_seconds: '0.5' is text, not a number"):
        vocoder(vocoder.mel(audio), chunk_seconds="0.5")
