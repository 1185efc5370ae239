"""A step is a function of weights, batch, seed and number; one that is not finite changes nothing but the counters."""

import contextlib
import copy
from itertools import chain

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from audiodiff.config import RunConfig
from audiodiff.networks import build_network
from audiodiff.training.distributed import Distributed
from audiodiff.training.optimiser import learning_rate
from audiodiff.training.state import TrainState

DISTRIBUTED = Distributed(torch.device("cpu"))


def flat(network):
    return torch.cat([value.flatten().float() for value in network.state_dict().values()])


@pytest.fixture(scope="module")
def network(tiny_run_config):
    torch.manual_seed(0)
    return build_network(tiny_run_config.model)


@pytest.fixture
def make_state(network, tiny_run_config):
    """A state whose weights start from the same numbers whatever its settings."""

    def make(**settings):
        training = tiny_run_config.training.model_copy(update=settings)
        return TrainState(copy.deepcopy(network), tiny_run_config.model, training, DISTRIBUTED)

    return make


def test_the_same_steps_give_the_same_weights(make_state, stream):
    first, second = make_state(), make_state()
    results = [[state.step(batch) for batch in stream] for state in (first, second)]
    assert results[0] == results[1]
    assert torch.equal(flat(first.network), flat(second.network))
    assert torch.equal(flat(first.ema), flat(second.ema))


def test_resumed_state_matches_uninterrupted_run(make_state, stream, tmp_path):
    straight, before, after = make_state(), make_state(), make_state()
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
    assert straight.progress == after.progress


@pytest.mark.parametrize(
    "option",
    [{}, {"few_step_weight": 0.5}, {"loss": "l1"}, {"gradient_checkpointing": True}],
    ids=str,
)
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradients_train_as_the_large_batch_does(make_state, stream, parts, option):
    states = make_state(**option), make_state(batch_size=4 // parts, gradient_accumulation_steps=parts, **option)
    losses = [float(state._backward(stream[0])) for state in states]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    whole, parted = (
        torch.cat([weight.grad.flatten() for weight in state.network.parameters() if weight.grad is not None])
        for state in states
    )
    assert (parted - whole).norm() < 1e-5 * whole.norm()
    if not option:
        for state in states:
            state.step(stream[1])
        torch.testing.assert_close(flat(states[1].network), flat(states[0].network), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "option",
    [
        {"learning_rate": 1e-3},
        {"final_learning_rate": 1e-3},
        {"warmup_steps": 0},
        {"steps": 50},
        {"weight_decay": 0.5},
        {"betas": (0.8, 0.99)},
        {"betas": (0.9, 0.9)},
        {"gradient_clip": 1e-5},
        {"precision": "bf16"},
        {"seed": 1},
    ],
    ids=str,
)
def test_each_option_changes_the_weights(make_state, stream, option):
    plain, changed = make_state(), make_state(**option)
    for batch in stream:
        plain.step(batch)
        changed.step(batch)
    assert not torch.equal(flat(plain.network), flat(changed.network))


@pytest.mark.parametrize(("has", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_the_precision_that_is_fast(make_state, stream, monkeypatch, has, precision):
    monkeypatch.setattr("audiodiff.engine.choose.cpu_has_bf16", lambda: has)
    auto, explicit = make_state(precision="auto"), make_state(precision=precision)
    for batch in stream:
        auto.step(batch)
        explicit.step(batch)
    assert torch.equal(flat(auto.network), flat(explicit.network))


def test_the_decay_changes_the_average_only(make_state, stream):
    plain, changed = make_state(), make_state(ema_decay=0.1)
    for batch in stream:
        plain.step(batch)
        changed.step(batch)
    assert torch.equal(flat(plain.network), flat(changed.network))
    assert not torch.equal(flat(plain.ema), flat(changed.ema))


def test_a_step_reports_what_it_did(make_state, stream, tiny_run_config):
    state = make_state(gradient_clip=1e-6)
    results = [result for batch in stream for result in state.step(batch)]
    assert [result.learning_rate for result in results] == [
        learning_rate(i, tiny_run_config.training) for i in range(4)
    ]
    assert all(result.finite and result.gradient_norm > 1e-4 for result in results)
    assert state.progress.step == 4


def spoiled(batch):
    audio = batch.audio.clone()
    audio[0, 0, 1000] = torch.nan
    return batch._replace(audio=audio)


def test_a_step_that_is_not_finite_is_skipped_and_counted(make_state, stream):
    state = make_state()
    state.step(stream[0])
    before, stored = [flat(network) for network in (state.network, state.ema)], copy.deepcopy(state.state_dict())
    assert not state.step(spoiled(stream[1]))[0].finite
    assert not state.step(spoiled(stream[2]))[0].finite
    assert all(torch.equal(a, flat(b)) for a, b in zip(before, (state.network, state.ema), strict=True))
    assert (state.progress.step, state.progress.skipped, state.progress.skipped_in_a_row) == (3, 2, 2)
    for index, values in state.state_dict()["optimiser"].items():
        assert all(torch.equal(value, stored["optimiser"][index][name]) for name, value in values.items())
    assert state.step(stream[3])[0].finite
    assert (state.progress.skipped, state.progress.skipped_in_a_row) == (2, 0)


def test_an_infinite_gradient_of_a_finite_loss_is_skipped_too(make_state, stream, monkeypatch):
    state = make_state()
    monkeypatch.setattr("audiodiff.training.state.clip_grad_norm_", lambda parameters, largest: torch.tensor(torch.inf))
    before = flat(state.network)
    assert not state.step(stream[0])[0].finite
    assert torch.equal(before, flat(state.network))


def test_when_results_are_read_changes_nothing(make_state, stream):
    """What a GPU's state does, which reads the figures of a step one step later."""
    prompt, late = make_state(), make_state()
    late.lag = 1
    batches = [stream[0], spoiled(stream[1]), spoiled(stream[2]), stream[3]]
    results = [state.step(batch) for state in (prompt, late) for batch in batches]
    assert [len(result) for result in results] == [1, 1, 1, 1, 0, 1, 1, 1]
    with pytest.raises(RuntimeError, match="not complete"):
        late.state_dict()
    in_time, later = list(chain(*results[:4])), [*chain(*results[4:]), *late.flush()]
    assert [(r.step, r.finite, r.skipped, r.skipped_in_a_row) for r in later] == [
        (r.step, r.finite, r.skipped, r.skipped_in_a_row) for r in in_time
    ]
    assert [r.finite for r in later] == [True, False, False, True]
    assert late.flush() == []
    assert prompt.progress == late.progress
    for ours, theirs in ((prompt.network, late.network), (prompt.ema, late.ema)):
        assert torch.equal(flat(ours), flat(theirs))


def test_after_an_error_in_the_middle_of_a_step_there_is_no_state(make_state, stream, monkeypatch):
    state = make_state()
    state.step(stream[0])
    before = flat(state.network)
    monkeypatch.setattr(state.objective, "prepare", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        state.step(stream[1])
    assert torch.equal(flat(state.network), before)
    assert state.state_dict()["progress"]["step"] == 1  # nothing had moved yet
    monkeypatch.undo()
    monkeypatch.setattr("audiodiff.training.state.update_ema", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        state.step(stream[1])
    with pytest.raises(RuntimeError, match="not complete"):
        state.state_dict()


@pytest.mark.parametrize("kind", ["stft", "diffwave", "unet", "rbf"])
@pytest.mark.parametrize("option", [{}, {"precision": "bf16"}, {"few_step_weight": 1.0}], ids=str)
def test_checkpointing_keeps_less_and_learns_the_same(stream, tiny_run_config, kind, option):
    levels = {"factors": (2, 2), "multipliers": (1, 1, 2), "blocks": (1, 1, 1), "attention": 1}
    update = levels | ({"kind": kind} if kind != "rbf" else {"activation": "rbf"})
    network = tiny_run_config.model.network.model_copy(update={"patch": 8, "layers": 4} | update)
    model = tiny_run_config.model.model_copy(update={"network": network})
    torch.manual_seed(0)
    start, weights, kept = build_network(model), [], []
    for frugal in (False, True):
        training = tiny_run_config.training.model_copy(update={"gradient_checkpointing": frugal} | option)
        state, sizes = TrainState(copy.deepcopy(start), model, training, DISTRIBUTED), []
        for batch in stream:
            with saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
                state.step(batch)
        weights.append(flat(state.network))
        kept.append(sum(sizes))
    assert torch.equal(*weights)
    assert kept[1] < 0.97 * kept[0]


def test_settings_of_the_optimiser_are_those_of_the_resumed_run(make_state, stream):
    first = make_state()
    first.step(stream[0])
    second = make_state(weight_decay=0.25, betas=(0.5, 0.6))
    second.load_state_dict(first.state_dict())
    (group,) = second.optimiser.param_groups
    assert (group["weight_decay"], group["betas"]) == (0.25, (0.5, 0.6))


def test_centres_and_spreads_travel_at_their_own_learning_rate(make_state, stream):
    moved = []
    for rate in (None, 2e-3, 0.2):
        state = make_state(embedding_learning_rate=rate)
        before, others = state.ema.level.features.centres.clone(), state.network.input.weight.clone()
        state.step(stream[0])
        state.step(stream[1])
        moved.append((state.network.level.features.centres - before).detach().norm())
        assert not torch.equal(state.network.input.weight, others)
    assert moved[0] == moved[1]  # that of all else is 2e-3
    assert moved[2] > 20 * moved[0]


@pytest.mark.parametrize("rate", [0.2, None])
def test_a_run_goes_on_alike_where_centres_have_their_own_learning_rate(make_state, stream, rate):
    straight, first = make_state(embedding_learning_rate=rate), make_state(embedding_learning_rate=rate)
    for batch in stream:
        straight.step(batch)
    for batch in stream[:2]:
        first.step(batch)
    second = make_state(embedding_learning_rate=rate)
    second.ema.load_state_dict(first.ema.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for batch in stream[2:]:
        second.step(batch)
    assert torch.equal(flat(straight.network), flat(second.network))
    # a run that began without it goes on with it: the moments still belong to their parameters
    other = make_state(embedding_learning_rate=None if rate else 0.2)
    other.load_state_dict(first.state_dict())
    for (name, parameter), moments in zip(
        other.network.named_parameters(), first.state_dict()["optimiser"].values(), strict=True
    ):
        assert torch.equal(other.optimiser.state[parameter]["exp_avg"], moments["exp_avg"]), name


@pytest.mark.parametrize("option", [{"loss_weighting": "min-snr"}, {"spectral_weighting": 1.0}], ids=str)
def test_weights_of_the_loss_change_what_is_learned(make_state, stream, option):
    plain, weighted = make_state(), make_state(**option)
    first = [state.step(stream[0])[0].loss for state in (plain, weighted)]
    assert first[0] != first[1]
    assert not torch.equal(flat(plain.network), flat(weighted.network))


def test_compile_is_used_when_asked_for(make_state, stream, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    make_state().step(stream[0])
    assert compiled == []
    make_state(compile=True).step(stream[0])
    assert len(compiled) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stft", "diffwave"])
def test_the_compiled_network_learns_the_same(stream, tiny_run_config, kind):
    config: RunConfig = tiny_run_config
    network = config.model.network.model_copy(update={"kind": kind, "patch": 8, "channels": 16, "layers": 3})
    model = config.model.model_copy(update={"network": network})
    torch.manual_seed(0)
    start = build_network(model)
    weights = []
    for compiled in (False, True):
        training = config.training.model_copy(update={"compile": compiled})
        state = TrainState(copy.deepcopy(start), model, training, DISTRIBUTED)
        for batch in stream:
            state.step(batch)
        weights.append(flat(state.network))
    torch.testing.assert_close(*weights, atol=1e-4, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("option", [{}, {"precision": "bf16"}, {"gradient_checkpointing": True}], ids=str)
def test_a_step_on_a_gpu_never_waits_for_it(network, stream, tiny_run_config, option):
    training = tiny_run_config.training.model_copy(update=option)
    state = TrainState(copy.deepcopy(network), tiny_run_config.model, training, Distributed(torch.device("cuda")))
    pinned = [type(batch)(*(field.pin_memory() for field in batch)) for batch in stream]
    state.step(pinned[0])  # what is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in pinned[1:]:
            state.step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(result.finite for result in state.flush())


@contextlib.contextmanager
def _default(setter, value, back):
    setter(value)
    try:
        yield
    finally:
        setter(back)


@pytest.mark.parametrize(
    "state",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: _default(torch.set_default_dtype, torch.float64, torch.float32),
        lambda: _default(torch.set_default_device, "meta", None),
        lambda: _default(torch.set_grad_enabled, False, True),
        torch.inference_mode,
        torch.no_grad,
    ],
)
def test_what_the_caller_has_set_in_torch_changes_no_step(state, make_state, stream):
    expected, found = make_state(), make_state()
    results = [expected.step(batch) for batch in stream[:2]]
    with state():
        assert [found.step(batch) for batch in stream[:2]] == results
    assert torch.equal(flat(found.network), flat(expected.network))
    assert torch.equal(flat(found.ema), flat(expected.ema))
