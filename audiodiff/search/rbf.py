"""Search for the radial basis functions of the noise-level embedding: trials are short runs, ranked by validation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from audiodiff.audio.io import make_folder
from audiodiff.config import EmbeddingConfig, RunConfig, change, parse_config
from audiodiff.data.corpus import open_corpus
from audiodiff.data.dataset import validation_crops
from audiodiff.errors import AudiodiffError, ConfigError, TrainingError, needed
from audiodiff.networks import Network
from audiodiff.networks.embeddings import RadialBasis
from audiodiff.search.study import Study
from audiodiff.training.distributed import init_distributed
from audiodiff.training.initialisation import initialise
from audiodiff.training.validation import Validator

if TYPE_CHECKING:
    import optuna

Method = Literal["grid", "random", "gradient"]
Value = int | float | str | bool
OnStep = Callable[[], object]

EMBEDDING = "model.network.embedding"
_CRASHES = (AudiodiffError, RuntimeError, ValueError, ArithmeticError, MemoryError)
"""What a trial may end with that says nothing of the others."""
_WARMUP_FRACTION = 0.1
"""Longest warm-up, as a fraction of the steps: that of a whole run would be all of a short one."""


class SearchParameter(NamedTuple):
    """A field of `EmbeddingConfig` that is searched.

    Attributes:
        name: Of the field.
        grid: The values of a grid search; of numbers, random search draws evenly in log between the first and the last.
    """

    name: str
    grid: tuple[Value, ...]

    @property
    def is_number(self) -> bool:
        """Whether it can have values between those of the grid."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.grid)

    def draw(self, source: np.random.Generator) -> Value:
        """Draw a value."""
        if not self.is_number:
            return self.grid[int(source.integers(len(self.grid)))]
        value = math.exp(source.uniform(math.log(self.grid[0]), math.log(self.grid[-1])))  # type: ignore[arg-type]
        return round(value) if isinstance(self.grid[0], int) else round(value, 3)


def _all_of(name: str) -> SearchParameter:
    """Return the search parameter of a field with few values."""
    kinds = [EmbeddingConfig.model_fields[name].annotation]
    values: list[Value] = []
    while kinds:
        kind = kinds.pop(0)
        if isinstance(kind, str):
            values.append(kind)
        else:
            values += [True, False] if kind is bool else []
            kinds += get_args(kind)
    return SearchParameter(name, tuple(values))


SEARCH_PARAMETERS = (
    SearchParameter("centres", (8, 16, 32, 64)),
    SearchParameter("spread", (0.5, 1.0, 2.0)),
    *(_all_of(name) for name in ("initialisation", "domain", "learnable")),
)
"""What is searched, in one place."""


@dataclass(frozen=True)
class SearchConfig:
    """What is searched.

    Attributes:
        config: The run that the trials shorten.
        method: How.
        trials: How many runs, that of the configuration itself among them.
        steps: Training steps of each.
        seed: Of what the method draws; training has its own.
        over: Names of the parameters that are searched; the others stay as in the configuration.
    """

    config: RunConfig
    method: Method
    trials: int
    steps: int
    seed: int = 0
    over: tuple[str, ...] = tuple(parameter.name for parameter in SEARCH_PARAMETERS)

    @property
    def parameters(self) -> list[SearchParameter]:
        """What is searched."""
        return [parameter for parameter in SEARCH_PARAMETERS if parameter.name in self.over]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What results depend on, for a study file."""
        config = json.dumps(self.config.model_dump(mode="json"), sort_keys=True).encode()
        checksum = blake2b(config, digest_size=8).hexdigest()
        return {"study": "rbf", "config": checksum, "trial_steps": self.steps, "over": list(self.over)}


@dataclass(frozen=True)
class SearchResult:
    """What a search came to.

    Attributes:
        embedding: Fields of the best embedding.
        loss: Its validation loss after the steps of a trial.
        own_loss: That of the configuration as it was; None where its run crashed.
        trials: How many runs there were.
        crashed: How many of them crashed.
        centres: Where training has moved the centres, of a gradient search.
        spreads: Likewise.
    """

    embedding: Mapping[str, Value]
    loss: float
    own_loss: float | None
    trials: int
    crashed: int = 0
    centres: Sequence[float] = field(default=())
    spreads: Sequence[float] = field(default=())


def search_rbf(search: SearchConfig, study: Path, on_step: OnStep = lambda: None) -> SearchResult:
    """Search the embedding of a run's model, or go on searching.

    Args:
        search: What and how.
        study: A file that keeps the trials; of optuna's journal storage, or for `gradient` JSON lines.
        on_step: Called after every training step.

    Returns:
        The best.

    Raises:
        ConfigError: If the configuration has no radial basis functions to search, or starts from other weights; if the
            study belongs to something else; or optuna is not installed.
        TrainingError: If no trial came through.
    """
    config = search.config
    if config.model.network.embedding.kind != "rbf":
        kind = config.model.network.embedding.kind
        raise ConfigError(f"{EMBEDDING}.kind is {kind!r}; search rbf needs 'rbf'. Add --set {EMBEDDING}.kind=rbf.")
    if config.training.initial_model is not None:
        raise ConfigError(
            f"training.initial_model is {config.training.initial_model}, whose embedding is what it is; trials begin "
            "with fresh weights. Add --set training.initial_model=null."
        )
    make_folder(study.parent)
    return _by_gradient(search, study, on_step) if search.method == "gradient" else _by_trials(search, study, on_step)


def with_embedding(config: RunConfig, embedding: Mapping[str, Value]) -> RunConfig:
    """Return a run with some fields of the embedding changed.

    Raises:
        ConfigError: If they do not go together.
    """
    changes = {f"{EMBEDDING}.{name}": value for name, value in embedding.items()}
    return parse_config(RunConfig, change(config.model_dump(mode="json"), changes), "the changed embedding")


# --- grid and random: optuna keeps the trials -------------------------------------------------------------------------


def plan(search: SearchConfig) -> list[dict[str, Value]]:
    """Return the trials of a search, the configuration's own values first; more trials go on where fewer ended."""
    own = search.config.model_dump(mode="json")["model"]["network"]["embedding"]
    planned: list[dict[str, Value]] = [{parameter.name: own[parameter.name] for parameter in search.parameters}]
    if search.method == "grid":
        names = [parameter.name for parameter in search.parameters]
        every = [
            dict(zip(names, values, strict=True))
            for values in product(*(parameter.grid for parameter in search.parameters))
        ]
        order = np.random.default_rng(search.seed).permutation(len(every))
        planned += [every[number] for number in order if every[number] != planned[0]]
    else:
        sources = (np.random.default_rng([search.seed, number]) for number in range(1, search.trials))
        planned += [{parameter.name: parameter.draw(source) for parameter in search.parameters} for source in sources]
    return planned[: search.trials]


def _by_trials(search: SearchConfig, path: Path, on_step: OnStep) -> SearchResult:
    planned = plan(search)
    study = _open_study(path, search)
    _close_unfinished(study)
    done = _finished(study)
    for number, values in enumerate(planned):
        if number in done:
            for _ in range(search.steps):
                on_step()
        else:
            study.enqueue_trial(dict(values), user_attrs={"number": number})
            _try(study, search, values, on_step)
    trials = {number: trial for number, trial in _finished(study).items() if number < len(planned)}
    losses = {number: trial.value for number, trial in trials.items() if trial.value is not None}
    if not losses:
        reason = trials[len(planned) - 1].user_attrs["reason"]
        raise TrainingError(f"all {len(planned)} trials crashed, the last one with {reason}")
    best = min(losses, key=lambda number: losses[number])
    return SearchResult(planned[best], losses[best], losses.get(0), len(planned), len(planned) - len(losses))


def _try(study: optuna.Study, search: SearchConfig, values: Mapping[str, Value], on_step: OnStep) -> None:
    """Run the trial that is queued; a crash ends nothing but this trial."""
    trial = study.ask()
    for parameter in search.parameters:
        _suggest(trial, parameter, values[parameter.name])
    try:
        loss, _ = short_run(with_embedding(search.config, values), search.steps, on_step)
    except _CRASHES as error:
        trial.set_user_attr("reason", f"{type(error).__name__}: {error}")
        study.tell(trial, state=_states().FAIL)
    else:
        study.tell(trial, loss)


def _states() -> Any:
    from optuna.trial import TrialState

    return TrialState


def _open_study(path: Path, search: SearchConfig) -> optuna.Study:
    with needed("search", f"--method {search.method} (unlike gradient)"):
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(path)))
    name = f"{search.method}, seed {search.seed}"
    study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    known = study.user_attrs.get("fingerprint")
    if known not in (None, search.fingerprint):
        raise ConfigError(
            f"{path} belongs to another search: {known} there, {search.fingerprint} here. Choose another --study file."
        )
    study.set_user_attr("fingerprint", search.fingerprint)
    return study


def _finished(study: optuna.Study) -> dict[int, optuna.trial.FrozenTrial]:
    """Return the trials that came to an end of their own, by their number in the plan."""
    states = _states()
    trials = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.FAIL))
    ended = (trial for trial in trials if trial.value is not None or "reason" in trial.user_attrs)
    return {trial.user_attrs["number"]: trial for trial in ended}


def _close_unfinished(study: optuna.Study) -> None:
    """Close what a kill has left open; it is tried again under a new number of optuna's."""
    states = _states()
    while study.get_trials(deepcopy=False, states=(states.WAITING,)):
        study.ask()
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        study.tell(trial.number, state=states.FAIL)


def _suggest(trial: optuna.Trial, parameter: SearchParameter, value: Value) -> None:
    """Tell optuna of a value, for its pictures and importances."""
    if not parameter.is_number:
        trial.suggest_categorical(parameter.name, parameter.grid)
    elif isinstance(value, int):
        trial.suggest_int(parameter.name, 2, 4096, log=True)
    else:
        trial.suggest_float(parameter.name, 1e-3, 1e3, log=True)


# --- gradient ---------------------------------------------------------------------------------------------------------


def _by_gradient(search: SearchConfig, path: Path, on_step: OnStep) -> SearchResult:
    """Train centres and spreads from where the configuration puts them; what they came to is the result."""
    config = with_embedding(search.config, {"learnable": True})
    study = Study(path, search.fingerprint | {"method": "gradient"})
    if not list(study):
        before = config.model.network.embedding.spread
        loss, basis = short_run(config, search.steps, on_step)
        spread = round(before * basis.growth, 3)
        study.add({"loss": loss, "spread": spread, "centres": basis.centres, "spreads": basis.spreads})
    (done,) = study
    embedding: dict[str, Value] = {"learnable": True, "spread": done["spread"]}
    return SearchResult(embedding, done["loss"], None, 1, centres=done["centres"], spreads=done["spreads"])


# --- a trial ----------------------------------------------------------------------------------------------------------


class Basis(NamedTuple):
    """What training has made of the radial basis functions of the embedding.

    Attributes:
        centres: Where they are.
        spreads: How wide they are.
        growth: Geometric mean of how many times as wide they have become.
    """

    centres: list[float]
    spreads: list[float]
    growth: float


def short_run(config: RunConfig, steps: int, on_step: Callable[[], object] = lambda: None) -> tuple[float, Basis]:
    """Train for a short while; seed and configuration decide the result.

    Args:
        config: The run; its learning rate goes through its whole course in these steps.
        steps: How many.
        on_step: Called after every step.

    Returns:
        The validation loss of the averaged weights, and the radial basis functions.

    Raises:
        TrainingError: If the loss is not finite.
        AudiodiffError: If data or model cannot be used.
    """
    warmup = min(config.training.warmup_steps, int(_WARMUP_FRACTION * steps))
    training = config.training.model_copy(update={"steps": steps, "warmup_steps": warmup})
    config = config.model_copy(update={"training": training})
    corpus = open_corpus(config)
    stream = corpus.training
    with init_distributed(training.device) as distributed:
        state = initialise(config, stream, distributed)
        before = _basis(state.ema).spread.detach().clone()
        batches = stream.batches(0, training.crops_per_step, config.data.workers, replica=distributed.replica)
        for _ in range(steps):
            state.step(next(batches))
            on_step()
        batches.close()
        state.flush()
        crops = validation_crops(corpus.validation, stream.reader, training.validation_crops)
        loss = Validator(crops, state.objective, training, state.few_step)(state.ema).loss
        basis = _basis(state.ema)
        growth = float((basis.spread.detach() / before).log().mean().exp())
    if not math.isfinite(loss):
        raise TrainingError(f"the validation loss is {loss} after {steps} steps")
    return loss, Basis(basis.centres.tolist(), basis.spread.tolist(), growth)


def _basis(network: Network) -> RadialBasis:
    features = network.level.features
    if not isinstance(features, RadialBasis):
        raise TypeError("this network has no radial basis functions")
    return features
