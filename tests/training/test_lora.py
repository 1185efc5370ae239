"""What is not trained stays as it is, adapters are of low rank, and a model that was trained so is a plain one."""

import contextlib
import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.utils import parametrize

from audiodiff.config import AdapterConfig, RunConfig
from audiodiff.errors import TrainingError
from audiodiff.networks import build_network
from audiodiff.training.distributed import Distributed
from audiodiff.training.optimiser import LoRA, merged_weights, set_trainable
from audiodiff.training.state import TrainState

DISTRIBUTED = Distributed(torch.device("cpu"))
RANK = 3


def awake(model):
    """A network whose output is not zero, as that of a model that was trained before."""
    torch.manual_seed(0)
    network = build_network(model)
    nn.init.normal_(network.output.weight, std=0.1)
    return network


@pytest.fixture(scope="module")
def network(tiny_run_config):
    return awake(tiny_run_config.model)


@pytest.fixture
def make_state(network, tiny_run_config):
    def make(trained, **settings):
        settings = {"trained": trained, "adapters": AdapterConfig(rank=RANK), "ema_decay": 0.0} | settings
        training = tiny_run_config.training.model_copy(update=settings)
        return TrainState(network, tiny_run_config.model, training, DISTRIBUTED)

    return make


def flat(network):
    return torch.cat([value.flatten().float() for value in network.state_dict().values()])


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, mel = torch.randn(2, 1, 640, generator=generator), torch.randn(2, 20, 10, generator=generator)
    return x, torch.tensor([-2.0, 3.0]), mel


def outputs(network):
    x, log_snr, mel = inputs()
    with torch.no_grad():
        return network(x, log_snr, network.encode(mel))


@pytest.mark.parametrize("trained", ["all_but_trunk", "adapters"])
def test_training_starts_from_what_the_model_does(network, make_state, trained):
    assert torch.equal(outputs(make_state(trained).network), outputs(network))


@pytest.mark.parametrize("kind", ["stft", "diffwave", "unet", "rbf"])
@pytest.mark.parametrize("trained", ["all", "all_but_trunk", "adapters"])
def test_only_what_is_trained_moves(tiny_run_config, stream, trained, kind):
    update = {"patch": 8, "factors": (2, 2), "multipliers": (1, 1, 2), "blocks": (1, 1, 1)}
    update |= {"kind": kind} if kind != "rbf" else {"activation": "rbf"}
    network = tiny_run_config.model.network.model_copy(update=update)
    model = tiny_run_config.model.model_copy(update={"network": network})
    initial = awake(model)
    training = tiny_run_config.training.model_copy(update={"trained": trained})
    state = TrainState(initial, model, training, DISTRIBUTED)
    for batch in stream:
        state.step(batch)
    before = dict(initial.named_parameters())
    trunk = {name for name in before if name.startswith("stack.") and not name.startswith("stack.conditioner.")}
    matrices = {name for name in trunk if isinstance(initial.get_submodule(name.rpartition(".")[0]), nn.Linear)}
    expected = {
        "all": set(before),
        "all_but_trunk": set(before) - trunk,
        "adapters": {name for name in matrices if name.endswith("weight")},
    }
    moved = {name for name, weight in state.ema.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == expected[trained]


def test_an_adapter_adds_a_matrix_of_low_rank(network, make_state, stream):
    state = make_state("adapters")
    for batch in stream:
        state.step(batch)
    before = dict(network.named_parameters())
    for name, weight in state.ema.named_parameters():
        if name.startswith("stack.layers") and name.endswith("weight"):
            strengths = torch.linalg.svdvals((weight - before[name]).double())
            assert strengths[RANK - 1] > 1e-6
            assert strengths[RANK] < 1e-3 * strengths[RANK - 1]


@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 3)])
def test_a_low_rank_weight_is_what_its_formula_says(shape):
    weight = torch.randn(shape).double()
    adapter = LoRA(weight, 2, 6.0, torch.Generator().manual_seed(0))
    assert torch.equal(adapter(weight), weight)
    nn.init.normal_(adapter.up)
    expected = weight + 6.0 / 2 * (adapter.up @ adapter.down).reshape(shape)
    torch.testing.assert_close(adapter(weight), expected)


def test_the_averaged_model_is_a_plain_one_with_the_adapters_merged_in(network, make_state, stream):
    state = make_state("adapters")  # without averaging, so that both must do the same
    for batch in stream:
        state.step(batch)
    assert state.ema.state_dict().keys() == network.state_dict().keys()
    assert not torch.equal(outputs(state.ema), outputs(network))
    torch.testing.assert_close(outputs(state.ema), outputs(state.network), rtol=0, atol=1e-5)


def test_adapters_accumulate_gradients(make_state, stream):
    states = make_state("adapters"), make_state("adapters", batch_size=1, gradient_accumulation_steps=4)
    norms = [state.step(stream[0])[0].gradient_norm for state in states]
    assert norms[0] > 0
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_bfloat16_rounds_the_products_and_not_the_adapted_weights(network, make_state):
    state = make_state("adapters", precision="bf16")
    layer = state.network.stack.layers[0].taps
    with torch.no_grad():
        nn.init.normal_(layer.parametrizations.weight[0].up, std=1e-3)
        exact = layer.weight
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer.weight, exact)


def test_adapters_are_merged_once_per_step(make_state, stream, monkeypatch):
    state, calls = make_state("adapters", few_step_weight=1.0), []
    merge = LoRA.forward
    monkeypatch.setattr(LoRA, "forward", lambda self, weight: calls.append(self) or merge(self, weight))
    with monkeypatch.context() as patch:
        patch.setattr(parametrize, "cached", contextlib.nullcontext)
        state._backward(stream[0])  # three calls of the network: one denoises, two are the steps of the sampler
    apart = len(calls)
    calls.clear()
    state.step(stream[0])
    assert apart == 3 * len(set(calls))
    assert len(calls) == 2 * len(set(calls))  # and once more for the average


def test_the_optimiser_holds_what_is_trained_alone(network, make_state, stream):
    state = make_state("adapters")
    state.step(stream[0])
    matrices = [layer.weight for layer in network.trunk.modules() if isinstance(layer, nn.Linear)]
    count = sum(parameter.numel() for group in state.optimiser.param_groups for parameter in group["params"])
    assert count == sum(RANK * sum(matrix.shape) for matrix in matrices)
    assert len(state.state_dict()["optimiser"]) == 2 * len(matrices)


@pytest.mark.parametrize("trained", ["all_but_trunk", "adapters"])
def test_resumed_state_matches_uninterrupted_run(make_state, stream, tmp_path, trained):
    straight, before, after = (make_state(trained, ema_decay=0.9) for _ in range(3))
    for batch in stream:
        straight.step(batch)
    for batch in stream[:2]:
        before.step(batch)
    torch.save(before.state_dict(), tmp_path / "state.pt")
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    after.ema.load_state_dict(before.ema.state_dict())
    for batch in stream[2:]:
        after.step(batch)
    assert torch.equal(flat(straight.network), flat(after.network))
    assert torch.equal(flat(straight.ema), flat(after.ema))


def test_a_state_of_other_parts_is_refused(make_state):
    stored = make_state("adapters").state_dict()
    for other in (
        make_state("all"),
        make_state("all_but_trunk"),
        make_state("adapters", adapters=AdapterConfig(rank=RANK, alpha=1.0)),
    ):
        with pytest.raises(TrainingError, match="trained adapters of rank 3 and alpha 8, this one trains"):
            other.load_state_dict(stored)
    before = make_state("all").state_dict()
    del before["trained"]  # a checkpoint of the time before there was a choice
    make_state("all").load_state_dict(before)
    with pytest.raises(TrainingError, match="trained all, this one trains all_but_trunk"):
        make_state("all_but_trunk").load_state_dict(before)


def test_a_checkpoint_with_the_old_name_of_a_choice_is_read(make_state):
    stored = make_state("all_but_trunk").state_dict() | {"trained": "ends"}
    make_state("all_but_trunk").load_state_dict(stored)


@pytest.mark.parametrize(
    "option",
    [
        {"adapters": AdapterConfig(rank=2)},
        {"adapters": AdapterConfig(rank=RANK, alpha=2.0)},
        {"trained": "all_but_trunk"},
    ],
    ids=str,
)
def test_each_option_changes_what_is_learnt(make_state, stream, option):
    plain, changed = make_state("adapters"), make_state(**({"trained": "adapters"} | option))
    for batch in stream[:2]:
        plain.step(batch)
        changed.step(batch)
    assert not torch.equal(flat(plain.ema), flat(changed.ema))


def test_adapters_start_from_the_seed(network, tiny_run_config):
    starts = []
    for seed in (0, 0, 1):
        copied = copy.deepcopy(network)
        set_trainable(copied, tiny_run_config.training.model_copy(update={"trained": "adapters", "seed": seed}))
        starts.append(flat(copied))
        names = [name for name, _ in network.named_parameters()]
        assert all(map(torch.equal, merged_weights(copied, names), network.parameters()))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("trained", ["all", "all_but_trunk", "adapters"])
def test_the_network_that_is_given_stays_as_it_is(network, make_state, stream, trained):
    before = flat(network)
    make_state(trained).step(stream[0])
    assert torch.equal(before, flat(network))
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_an_option_that_adapters_would_leave_without_effect_is_refused(tiny_run_config):
    values = tiny_run_config.model_dump()
    values["training"] |= {"trained": "adapters", "initial_model": "any", "embedding_learning_rate": 1e-2}
    with pytest.raises(ValidationError, match="no effect on adapters"):
        RunConfig.model_validate(values)


@pytest.mark.parametrize("trained", ["all_but_trunk", "adapters"])
def test_there_must_be_a_model_to_keep(tiny_run_config, trained):
    values = tiny_run_config.model_dump()
    values["training"]["trained"] = trained
    with pytest.raises(
        ValidationError, match=f"'{trained}', which leaves the other weights as they are: name the model"
    ):
        RunConfig.model_validate(values)
