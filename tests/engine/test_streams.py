"""A network fed piece by piece predicts what it predicts of the whole, whichever engine runs it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from audiodiff.config import MelConfig, ModelConfig, NetworkConfig
from audiodiff.engine import choose
from audiodiff.engine.choose import IncrementalEngine, PlainEngine, TiledEngine, choose_dtype, make_engine
from audiodiff.engine.tiled import TiledDiffWave
from audiodiff.engine.windows import Length, with_halo
from audiodiff.engine.winograd import MIN_CHANNELS
from audiodiff.errors import ConfigError
from audiodiff.networks import Network, build_network
from audiodiff.networks.conditioning import GlobalConditions

MEL = MelConfig(sample_rate=8000, n_fft=256, hop_length=64, win_length=256, n_mels=20, f_min=0, f_max=4000)
BLOCKS = 40
LEVEL = torch.tensor(1.5, dtype=torch.float64)
CPU = torch.device("cpu")

NETWORKS = {
    "diffwave": {"channels": 8, "layers": 7, "dilation_cycle": 4},
    "patches": {"channels": 8, "layers": 4, "patch": 8},
    "upsampled": {"channels": 8, "layers": 4, "upsampling": "transposed", "upsampling_factors": [8, 8]},
    "one layer": {"channels": 4, "layers": 1},
    "wide": {"channels": MIN_CHANNELS, "layers": 6, "dilation_cycle": 5},
    "radial": {"channels": 8, "layers": 4, "patch": 8, "activation": "rbf"},
    "stft": {"kind": "stft", "channels": 8, "layers": 3, "n_fft": 256, "hop_length": 64},
    "causal": {"channels": 8, "layers": 7, "dilation_cycle": 4, "patch": 8, "look_ahead": 1},
    "causal stft": {
        **{"kind": "stft", "channels": 8, "layers": 4, "n_fft": 192, "hop_length": 64, "look_ahead": 1},
        **{"branches": [{"n_fft": 32, "hop_length": 16, "channels": 8, "layers": 3}], "mel_encoder_layers": 2},
    },
    "branched stft": {
        **{"kind": "stft", "channels": 8, "layers": 5, "dilation_cycle": 3, "n_fft": 256, "hop_length": 64},
        **{"branches": [{"n_fft": 64, "hop_length": 16, "channels": 4, "layers": 4}], "mel_encoder_layers": 2},
    },
    "unet": {
        "kind": "unet",
        "channels": 8,
        "patch": 4,
        "factors": [4, 2],
        "multipliers": [1, 2, 3],
        "blocks": [1, 1, 1],
    },
    "attention": {
        **{"kind": "unet", "channels": 8, "patch": 4, "factors": [4, 4], "multipliers": [1, 2, 4], "blocks": [1, 1, 1]},
        "attention": 1,
    },
}
TILED = ("diffwave", "patches", "upsampled", "one layer", "wide")
INCREMENTAL = ("stft", "causal stft", "branched stft")


def make(name: str, *, mel: bool = True, labels: Sequence[str] = ()) -> tuple[Network, ModelConfig]:
    network = NetworkConfig.model_validate(NETWORKS[name])
    config = ModelConfig(sample_rate=8000, mel=MEL if mel else None, labels=tuple(labels), network=network)
    torch.manual_seed(0)
    built = build_network(config).eval()
    for parameter in built.output.parameters():  # which start at zero
        torch.nn.init.normal_(parameter, std=0.3)
    return built, config


def error(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


def streamed(
    engine, x: Tensor, mel: Tensor | None, cuts: Sequence[int], global_condition: Tensor | None = None
) -> list[Tensor]:
    """Run an engine over a signal in pieces of so many blocks."""
    block, start, pieces, conditions = MEL.hop_length, 0, [], []
    for length in cuts:
        stop, condition = start + length, None
        if mel is not None:
            low = max(0, start - engine.context_frames)
            context = mel[..., low : stop + engine.context_frames]
            condition = engine.encode(context, start - low, stop - low)
        pieces.append(x[..., start * block : stop * block])
        conditions.append(condition)
        start = stop
    batches = engine.stream(pieces, conditions, Length(x.shape[2]), LEVEL, global_condition)
    return [made for batch in batches for made in batch]


def alone(weights: TiledDiffWave, x: Tensor) -> Tensor:
    """Run a tiled network over a signal in one piece."""
    ((made,),) = weights.stream([x], [None], Length(x.shape[2]), LEVEL)
    return made


CUTS = [[BLOCKS], [1] * BLOCKS, [7, 30, 3], [39, 1], [1, 39]]


@pytest.mark.parametrize(
    ("name", "kind", "cuts"),
    [
        *((name, PlainEngine, cuts) for name in NETWORKS if name != "attention" for cuts in CUTS),
        *((name, TiledEngine, cuts) for name in TILED for cuts in CUTS),
        *((name, IncrementalEngine, cuts) for name in INCREMENTAL for cuts in CUTS),
    ],
    ids=str,
)
def test_pieces_are_predicted_like_the_whole(name, kind, cuts):
    network, config = make(name)
    engine = kind(network, config, torch.float32, *([CPU] if kind is PlainEngine else []))
    x, mel = torch.randn(1, 1, BLOCKS * MEL.hop_length), torch.randn(1, MEL.n_mels, BLOCKS)
    with torch.inference_mode():
        whole = network(x, LEVEL.float().reshape(1), network.encode(mel))
        pieces = streamed(engine, x, mel, cuts)
    assert all(piece.shape[-1] % MEL.hop_length == 0 for piece in pieces)
    assert error(torch.cat(pieces, dim=-1), whole) < 2e-6


@pytest.mark.parametrize("name", ["diffwave", "patches"])
def test_a_tiled_network_hears_its_label_and_needs_no_mel(name):
    network, config = make(name, mel=False, labels=("a", "b"))
    engine = TiledEngine(network, config, torch.float32)
    x = torch.randn(1, 1, BLOCKS * MEL.hop_length)
    made = {}
    with torch.inference_mode():
        for label in (0, 1):
            given = network.embed(GlobalConditions(torch.tensor([label])))
            made[label] = torch.cat(streamed(engine, x, None, [15, 25], given), dim=-1)
            assert error(made[label], network(x, LEVEL.float().reshape(1), None, given)) < 2e-6
    assert error(made[0], made[1]) > 1e-3


@pytest.mark.parametrize("name", INCREMENTAL)
def test_the_clips_of_an_incremental_batch_have_conditions_of_their_own(name):
    network, config = make(name, labels=("a", "b"))
    engine = IncrementalEngine(network, config, torch.float32)
    x, mel = torch.randn(2, 1, BLOCKS * MEL.hop_length), torch.randn(2, MEL.n_mels, BLOCKS)
    with torch.inference_mode():
        given = network.embed(GlobalConditions(torch.tensor([0, 1])))
        made = torch.cat(streamed(engine, x, mel, [7, 30, 3], given), dim=-1)
        whole = network(x, LEVEL.float().repeat(2), network.encode(mel), given)
        exchanged = network(x, LEVEL.float().repeat(2), network.encode(mel), given.flip(0))
    assert error(made, whole) < 2e-6
    assert error(made, exchanged) > 1e-3


@pytest.mark.parametrize("name", ["diffwave", "wide"])
@pytest.mark.parametrize("tile", [1, 5, 64, 4096])
def test_the_size_of_a_tile_changes_nothing(name, tile):
    network, _ = make(name, mel=False)
    x = torch.randn(1, 1, 700)
    with torch.inference_mode():
        made = alone(TiledDiffWave(network, torch.float32, tile), x)
        assert error(made, network(x, LEVEL.float().reshape(1))) < 2e-6


def test_a_signal_shorter_than_a_dilation_is_fine():
    network, _ = make("diffwave", mel=False)
    x = torch.randn(1, 1, 3)  # the largest dilation is 8
    with torch.inference_mode():
        made = alone(TiledDiffWave(network, torch.float32, 16), x)
        assert error(made, network(x, LEVEL.float().reshape(1))) < 2e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_bf16_is_near_fp32_and_not_it(name):
    network, config = make(name)
    x, mel = torch.randn(1, 1, BLOCKS * MEL.hop_length), torch.randn(1, MEL.n_mels, BLOCKS)
    with torch.inference_mode():
        engines = [make_engine(network, config, dtype, CPU) for dtype in (torch.bfloat16, torch.float32)]
        made = [engine.whole(x, engine.encode(mel, 0, BLOCKS), LEVEL, None) for engine in engines]
    assert 1e-4 < error(*made) < 0.03


@pytest.mark.parametrize("name", ["causal", "causal stft"])
def test_a_causal_network_looks_ahead_little(name):
    network, config = make(name)
    engine = make_engine(network, config, torch.float32, CPU)
    assert engine.reach_frames == {"causal": 1, "causal stft": 3}[name]
    assert network.receptive_field / MEL.hop_length > 2 * engine.reach_frames


def test_a_stream_answers_as_soon_as_it_can():
    """A piece comes out when the samples after it that the network depends on have come in, and not before."""
    network, config = make("diffwave")
    x, mel = torch.randn(1, 1, BLOCKS * MEL.hop_length), torch.randn(1, MEL.n_mels, BLOCKS)
    reach = network.stack.receptive_field  # 22 samples, less than a block of 64
    for engine in (TiledEngine(network, config, torch.float32), PlainEngine(network, config, torch.float32, CPU)):
        assert engine.reach_frames == -(-reach // MEL.hop_length) == 1
        pieces = x.split(MEL.hop_length, dim=-1)
        conditions = (engine.encode(mel[..., block : block + 1], 0, 1) for block in range(BLOCKS))
        batches = list(engine.stream(pieces, conditions, Length(x.shape[2]), LEVEL, None))
        blocks = [sum(piece.shape[-1] for piece in batch) // MEL.hop_length for batch in batches]
        assert blocks == [0] + [1] * (BLOCKS - 2) + [2]


def test_a_halo_too_narrow_would_be_noticed():
    """The tests above can fail: a stream that sees less than the network does gives something else."""
    network, _ = make("diffwave", mel=False)

    def predict(x: Tensor, condition: Tensor | None) -> Tensor:
        return network(x, LEVEL.float().reshape(1))

    x = torch.randn(1, 1, 640)
    with torch.inference_mode():
        for reach, right in ((64, True), (0, False)):
            batches = with_halo(
                predict,
                x.split(64, -1),
                [None] * 10,
                Length(640),
                look_back=reach,
                look_ahead=reach,
                samples_per_row=64,
            )
            pieces = [piece for batch in batches for piece in batch]
            assert (error(torch.cat(pieces, -1), predict(x, None)) < 2e-6) == right


def test_a_network_that_sees_everything_takes_the_whole():
    network, config = make("attention")
    engine = PlainEngine(network, config, torch.float32, CPU)
    assert engine.reach_frames is None
    x = torch.randn(1, 1, BLOCKS * MEL.hop_length)
    with pytest.raises(TypeError, match="needs the whole signal"):
        streamed(engine, x, None, [20, 20])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_at_once_is_what_the_network_makes(name):
    network, config = make(name)
    x, mel = torch.randn(1, 1, BLOCKS * MEL.hop_length), torch.randn(1, MEL.n_mels, BLOCKS)
    engine = make_engine(network, config, torch.float32, CPU)
    with torch.inference_mode():
        made = engine.whole(x, engine.encode(mel, 0, BLOCKS), LEVEL, None)
        assert error(made, network(x, LEVEL.float().reshape(1), network.encode(mel))) < 2e-6


def test_engines_are_chosen_by_network_and_place():
    for name in NETWORKS:
        network, config = make(name)
        expected = TiledEngine if name in TILED else IncrementalEngine if name in INCREMENTAL else PlainEngine
        assert type(make_engine(network, config, torch.float32, CPU)) is expected
    diffwave, config = make("diffwave")
    assert type(make_engine(diffwave, config, torch.float32, torch.device("meta"))) is PlainEngine


def test_tiles_refuse_what_they_would_compute_as_gates():
    with pytest.raises(TypeError, match="supports gated layers only"):
        TiledEngine(*make("radial"), torch.float32)


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bf16_where_the_cpu_multiplies_it(has, monkeypatch):
    monkeypatch.setattr(choose, "cpu_has_bf16", lambda: has)
    assert choose_dtype("auto", CPU) == (torch.bfloat16 if has else torch.float32)
    assert choose_dtype("fp32", CPU) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16
    with pytest.raises(ConfigError, match="unknown dtype 'int4'; choose from auto, fp32, bf16"):
        choose_dtype("int4", CPU)
