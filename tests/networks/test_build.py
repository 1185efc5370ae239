"""What every network promises, whichever kind the configuration names."""

import pytest
import torch
from torch.testing import assert_close

from audiodiff.config import ModelConfig, NetworkConfig
from audiodiff.errors import ConfigError
from audiodiff.networks import NETWORKS, build_network
from audiodiff.networks.conditioning import GlobalConditions

HOP, N_MELS, BLOCKS = 16, 5, 12
VARIANTS = [
    ("diffwave", {"patch": 1}),
    ("diffwave", {"patch": 4}),
    ("diffwave", {"patch": 16}),
    ("diffwave", {"patch": 1, "upsampling": "transposed", "upsampling_factors": (4, 4)}),
    ("diffwave", {"patch": 4, "upsampling": "transposed-per-layer", "upsampling_factors": (2, 2)}),
    ("stft", {"n_fft": 32}),
    ("stft", {"n_fft": 64}),
    ("diffwave", {"patch": 4, "activation": "rbf", "activation_centres": 5}),
    ("stft", {"n_fft": 32, "activation": "rbf"}),
    ("unet", {"patch": 4}),
    ("unet", {"patch": 2, "factors": (4, 2), "blocks": (2, 1, 3), "channels": 6}),
    ("unet", {"patch": 4, "attention": 2, "multipliers": (1, 2, 4)}),
]
IDS = [
    *("patch-1", "patch-4", "patch-16", "transposed", "transposed-per-layer-patch-4", "32", "64", "rbf-patch-4"),
    *("rbf-32", "unet", "unet-8", "attention"),
]
every_network = pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=IDS)
every_local_network = pytest.mark.parametrize(("kind", "options"), VARIANTS[:-1], ids=IDS[:-1])


@pytest.mark.parametrize("kind", ["diffwave", "unet"])
def test_a_network_beyond_the_memory_is_refused_before_it_is_made(kind, monkeypatch):
    config = ModelConfig(sample_rate=8000, network=NetworkConfig(kind=kind, channels=8192, patch=4))
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**18}.__getitem__)
    with pytest.raises(ConfigError, match=r"more than 0\.[3-9] billion weights, beyond the 1\.1 GB of memory"):
        build_network(config)


def inputs(batch=3, blocks=BLOCKS, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 1, blocks * HOP, dtype=dtype, generator=generator)
    mel = torch.randn(batch, N_MELS, blocks, dtype=dtype, generator=generator)
    return x, torch.linspace(-3, 3, batch, dtype=dtype), mel, torch.arange(batch) % 3


def embed(network, label):
    """Return the embedded global condition of clips of these classes."""
    return network.embed(GlobalConditions(label))


def difference(first, second):
    return (first - second).abs().amax((1, 2))


def farthest(jacobian, distance):
    """Return the largest distance of an output to an input that it depends on."""
    return int(distance[jacobian != 0].max())


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_kind_in_the_configuration_decides_the_network(kind, make_network):
    assert type(make_network(kind)) is NETWORKS[kind]


@every_network
@pytest.mark.parametrize("blocks", [1, 2, 12])
def test_the_prediction_has_the_shape_of_the_signal_and_is_float32(kind, options, blocks, make_network):
    network = make_network(kind, **options)
    x, log_snr, mel, label = inputs(blocks=blocks)
    prediction = network(x, log_snr, network.encode(mel), embed(network, label))
    assert prediction.shape == x.shape
    assert prediction.dtype == torch.float32
    assert prediction.isfinite().all()


@every_network
def test_half_precision_inside_still_predicts_in_float32(kind, options, make_network):
    network = make_network(kind, **options)
    x, log_snr, mel, label = inputs()
    exact = network(x, log_snr, network.encode(mel), embed(network, label))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(x, log_snr, network.encode(mel), embed(network, label))
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.05 * exact.norm()


@every_network
def test_signal_mel_label_and_noise_level_each_change_the_prediction_of_every_clip(kind, options, make_network):
    network = make_network(kind, **options)
    x, log_snr, mel, label = inputs()
    prediction = network(x, log_snr, network.encode(mel), embed(network, label))
    assert (difference(prediction, network(x + 0.1, log_snr, network.encode(mel), embed(network, label))) > 1e-3).all()
    assert (difference(prediction, network(x, log_snr, network.encode(mel + 0.1), embed(network, label))) > 1e-3).all()
    other = embed(network, (label + 1) % 3)
    assert (difference(prediction, network(x, log_snr, network.encode(mel), other)) > 1e-3).all()
    assert (difference(prediction, network(x, log_snr, network.encode(mel), None)) > 1e-3).all()
    assert (difference(prediction, network(x, log_snr, None, embed(network, label))) > 1e-3).all()


@every_network
@pytest.mark.parametrize("embedding", ["rbf", "sinusoidal", "lmnt", "philsyn"])
def test_the_noise_level_reaches_the_hidden_layers_by_its_embedding(kind, options, embedding, make_network):
    betas = (1e-4, 1e-2, 0.2, 0.5, 0.7, 0.9) if embedding in ("lmnt", "philsyn") else ()
    network = make_network(kind, embedding={"kind": embedding, "betas": betas}, **options).double()
    x, log_snr, mel, label = inputs(dtype=torch.float64)
    seen = []
    network.output.register_forward_hook(lambda module, arguments, output: seen.append(output))
    for level in (log_snr, log_snr + 2):
        network(x, level, network.encode(mel), embed(network, label))
    assert (difference(*seen) > 1e-4).all()  # at rounding of 1e-15


@every_network
def test_no_label_is_no_class_and_its_prediction_needs_no_mel(kind, options, make_network):
    network = make_network(kind, **options)
    x, log_snr, _, _ = inputs()
    assert torch.equal(network(x, log_snr), network(x, log_snr, None, embed(network, torch.full((3,), 3))))


@every_network
def test_a_network_without_mel_and_labels_refuses_to_encode_a_mel(kind, options, make_network):
    without_mel = {name: value for name, value in options.items() if not name.startswith("upsampling")}
    network = make_network(kind, mel=None, labels=(), **without_mel)
    x, log_snr, mel, _ = inputs()
    assert network(x, log_snr).shape == x.shape
    with pytest.raises(TypeError, match="without a mel condition"):
        network.encode(mel)


@every_network
def test_the_statistics_of_the_mel_are_taken_out_before_it_conditions(kind, options, make_network):
    network = make_network(kind, **options)
    _, _, mel, _ = inputs()
    expected = network.encode(mel)
    network.normalise_mel.mean.fill_(-5.0)
    network.normalise_mel.deviation.fill_(2.0)
    assert_close(network.encode(2 * mel - 5), expected)


@every_network
def test_encoding_once_serves_every_step(kind, options, make_network):
    network = make_network(kind, **options)
    x, _, mel, label = inputs()
    once = network.encode(mel)
    for level in (-8.0, -1.0, 3.0, 10.0):
        log_snr = torch.full((3,), level)
        x_again, kept = x.clone(), once.clone()
        prediction = network(x, log_snr, once, embed(network, label))
        assert torch.equal(prediction, network(x_again, log_snr, network.encode(mel), embed(network, label)))
        assert torch.equal(once, kept)


@every_network
def test_a_clip_is_predicted_alike_alone_and_in_a_batch(kind, options, make_network):
    network = make_network(kind, **options).double()
    x, log_snr, mel, label = inputs(dtype=torch.float64)
    together = network(x, log_snr, network.encode(mel), embed(network, label))
    for i in range(3):
        clip = slice(i, i + 1)
        alone = network(x[clip], log_snr[clip], network.encode(mel[clip]), embed(network, label[clip]))
        assert_close(alone, together[clip], rtol=1e-5, atol=1e-5)


@every_local_network
def test_a_signal_moved_by_a_block_with_its_mel_is_predicted_moved_by_a_block(kind, options, make_network):
    network = make_network(kind, **options).double()
    x, log_snr, mel, label = inputs(blocks=44, dtype=torch.float64)
    here = network(x[..., HOP:], log_snr, network.encode(mel[..., 1:]), embed(network, label))
    there = network(x, log_snr, network.encode(mel), embed(network, label))
    inner = network.receptive_field + HOP * network.stack.conditioner.context_frames
    assert_close(here[..., inner:], there[..., HOP + inner :], rtol=1e-5, atol=1e-5)


@every_local_network
def test_the_receptive_field_is_true(kind, options, make_network):
    network = make_network(kind, **options).double()
    blocks = 2 * (network.receptive_field // HOP) + 5
    x, log_snr, mel, label = inputs(batch=1, blocks=blocks, dtype=torch.float64)
    condition = network.encode(mel)
    middle = slice(HOP * (blocks // 2), HOP * (blocks // 2 + 1))  # one block of outputs, at every place in a patch

    jacobian = torch.autograd.functional.jacobian(
        lambda signal: network(signal, log_snr, condition, embed(network, label))[0, 0, middle], x
    )[:, 0, 0]
    position = torch.arange(x.shape[-1])
    reach = farthest(jacobian, (position[middle, None] - position).abs())
    # nothing beyond it, and something just inside: the window of a frame ends in a zero
    assert network.receptive_field - 2 <= reach <= network.receptive_field


@every_local_network
def test_the_receptive_field_holds_for_the_mel_too(kind, options, make_network):
    network = make_network(kind, **options).double()
    reach = network.receptive_field + HOP * network.stack.conditioner.context_frames
    blocks = 2 * (reach // HOP) + 5
    x, log_snr, mel, label = inputs(batch=1, blocks=blocks, dtype=torch.float64)
    middle = slice(HOP * (blocks // 2), HOP * (blocks // 2 + 1))
    jacobian = torch.autograd.functional.jacobian(
        lambda mel: network(x, log_snr, network.encode(mel), embed(network, label))[0, 0, middle], mel
    )
    sensitivity = jacobian[:, 0].abs().sum(1)  # of each output to each frame
    position, first = torch.arange(x.shape[-1])[middle, None], HOP * torch.arange(blocks)
    distance = torch.maximum(first - position, position - first - HOP + 1).clamp(min=0)  # to the frame's block
    assert 0 < farthest(sensitivity, distance) <= reach
    assert (sensitivity[distance == 0] > 0).all()


@every_network
def test_every_weight_has_an_effect(kind, options, make_network):
    network = make_network(kind, **options)
    x, log_snr, mel, label = inputs()
    # relu may switch a unit off, so it is the gradient of a whole weight that must not vanish
    network(x, log_snr, network.encode(mel), embed(network, label)).square().sum().backward()
    assert [name for name, weight in network.named_parameters() if not weight.grad.abs().sum() > 0] == []


@every_network
def test_the_first_step_of_training_already_moves_the_output_layer(kind, options, make_network):
    network = make_network(kind, awake=False, **options)
    x, log_snr, mel, label = inputs()
    (network(x, log_snr, network.encode(mel), embed(network, label)) - 1).square().mean().backward()
    assert network.output.weight.grad.abs().max() > 0


@every_network
def test_weights_saved_and_loaded_predict_the_same(kind, options, make_network):
    network, other = make_network(kind, **options), make_network(kind, awake=False, **options)
    x, log_snr, mel, label = inputs()
    network.normalise_mel.mean.fill_(0.3)
    other.load_state_dict(network.state_dict())
    first, second = (n(x, log_snr, n.encode(mel), embed(n, label)) for n in (network, other))
    assert torch.equal(first, second)


@pytest.mark.gpu
@every_network
def test_every_device_predicts_the_same(kind, options, make_network):
    network = make_network(kind, **options)
    x, log_snr, mel, label = inputs()
    here = network(x, log_snr, network.encode(mel), embed(network, label))
    network.cuda()
    there = network(x.cuda(), log_snr.cuda(), network.encode(mel.cuda()), embed(network, label.cuda()))
    assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)


def test_a_label_for_a_network_without_labels_is_refused():
    network = build_network(ModelConfig(sample_rate=8000, network=NetworkConfig(channels=4, layers=1, patch=4)))
    with pytest.raises(TypeError, match="without labels"):
        network(torch.zeros(1, 1, 8), torch.zeros(1), None, torch.zeros(1, dtype=torch.int64))


@every_network
def test_a_learned_variance_is_a_second_output_beside_an_unchanged_first(kind, options, make_network):
    learned, fixed = (make_network(kind, variance=variance, **options) for variance in ("learned", "fixed"))
    weights = learned.state_dict()
    extra = {name for name in weights if name not in fixed.state_dict()}
    assert extra == {"variance.weight", "variance.bias"}
    fixed.load_state_dict({name: value for name, value in weights.items() if name not in extra})
    x, log_snr, mel, label = inputs()
    output = learned(x, log_snr, learned.encode(mel), embed(learned, label))
    assert output.shape == (3, 2, x.shape[2])
    assert_close(output[:, :1], fixed(x, log_snr, fixed.encode(mel), embed(fixed, label)))
    assert not output[:, 1].any()  # it starts at zero, the geometric mean of the bounds
    torch.nn.init.normal_(learned.variance.weight)
    again = learned(x, log_snr, learned.encode(mel), embed(learned, label))
    assert torch.equal(again[:, 0], output[:, 0])
    assert len(again[0, 1].unique()) > x.shape[2] // 2  # every sample has its own


@pytest.mark.parametrize(("kind", "options"), [("diffwave", {"patch": 4}), ("stft", {"n_fft": 64})])
def test_the_variance_of_a_signal_moved_by_a_block_is_moved_by_a_block(kind, options, make_network):
    network = make_network(kind, variance="learned", mel=None, **options)
    torch.nn.init.normal_(network.variance.weight)
    inner = network.receptive_field
    x, log_snr, _, label = inputs(batch=1, blocks=2 * inner // HOP + 12)
    moved = torch.nn.functional.pad(x, (HOP, 0))[..., : x.shape[2]]
    here, there = (network(signal, log_snr, None, embed(network, label))[0, 1] for signal in (x, moved))
    assert_close(there[inner + HOP : -inner], here[inner : -inner - HOP], rtol=1e-4, atol=1e-4)
