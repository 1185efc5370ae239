"""Search for the radial basis functions of the noise-level embedding: trials are short runs, ranked by validation."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from audiodiff.audio.io import make_folder
from audiodiff.config import EmbeddingConfig, RunConfig, change, parse_config
from audiodiff.config.network import SPREAD_FLOOR
from audiodiff.errors import AudiodiffError, ConfigError, TrainingError, needed
from audiodiff.evaluation.results import Difference, compare
from audiodiff.search.short_run import short_run
from audiodiff.search.study import Study

if TYPE_CHECKING:
    import optuna

Method = Literal["grid", "random", "gradient"]
Value = int | float | str | bool
Losses = Mapping[int, float]
"""Validation loss by training seed."""
OnStep = Callable[[], object]

EMBEDDING = "model.network.embedding"
_CRASHES = (AudiodiffError, RuntimeError, ValueError, ArithmeticError, MemoryError)
"""What a trial may end with that says nothing of the others."""
_EXPLICIT = "explicit"
"""The initialisation that no trial can draw."""


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
    return SearchParameter(name, tuple(value for value in values if value != _EXPLICIT))


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
        trials: How many embeddings, that of the configuration itself among them.
        steps: Training steps of each run.
        seed: Of what the method draws; training has its own.
        over: Names of the parameters that are searched; the others stay as in the configuration.
        training_seeds: Seeds with which each trial is trained; none for that of the configuration.
    """

    config: RunConfig
    method: Method
    trials: int
    steps: int
    seed: int = 0
    over: tuple[str, ...] = tuple(parameter.name for parameter in SEARCH_PARAMETERS)
    training_seeds: tuple[int, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds with which each trial is trained."""
        return self.training_seeds or (self.config.training.seed,)

    @property
    def parameters(self) -> list[SearchParameter]:
        """What is searched."""
        return [parameter for parameter in SEARCH_PARAMETERS if parameter.name in self.over]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What results depend on, for a study file."""
        return self._fingerprint(self.config.model_dump(mode="json", exclude_defaults=True))

    @property
    def old_fingerprint(self) -> dict[str, Any]:
        """The same as studies had it that spelt defaults out; what they did not know is left out where it is empty."""
        plain = self.config.model_dump(mode="json")
        embedding = plain["model"]["network"]["embedding"]
        new = ((embedding, "centre_positions"), (embedding, "centre_spreads"), (plain["training"], "post_hoc_ema"))
        for part, name in new:
            if not part[name]:
                del part[name]
        return self._fingerprint(plain)

    def _fingerprint(self, config: Mapping[str, Any]) -> dict[str, Any]:
        checksum = blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=8).hexdigest()
        return {"study": "rbf", "config": checksum, "trial_steps": self.steps, "over": list(self.over)}


@dataclass(frozen=True)
class SearchResult:
    """What a search came to.

    Attributes:
        embedding: Fields of the best embedding.
        losses: Its validation losses after the steps of a trial.
        own_losses: Those of the configuration as it was; none where a run of it crashed, and of a gradient search.
        trials: How many there were.
        crashed: In how many of them a run crashed.
    """

    embedding: Mapping[str, Any]
    losses: Losses
    own_losses: Losses = field(default_factory=dict)
    trials: int = 1
    crashed: int = 0

    @property
    def loss(self) -> float:
        """Mean validation loss of the best embedding."""
        return float(np.mean(list(self.losses.values())))

    @property
    def difference(self) -> Difference | None:
        """The losses of the best embedding minus those of the configuration, seed by seed."""
        if not self.own_losses:
            return None
        return compare([self.own_losses[seed] for seed in self.losses], list(self.losses.values()))


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
            study belongs to something else; a seed is there twice; explicit centres stand against what is searched; or
            optuna is not installed.
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
    if len(set(search.seeds)) < len(search.seeds):
        raise ConfigError(f"a seed is there twice: {', '.join(map(str, search.seeds))}.")
    make_folder(study.parent)
    if search.method == "gradient":
        return _by_gradient(search, study, on_step)
    _check_explicit(search)
    return _by_trials(search, study, on_step)


def _check_explicit(search: SearchConfig) -> None:
    """Refuse to search what explicit centres and spreads decide."""
    embedding = search.config.model.network.embedding
    positions, spreads = embedding.centre_positions, embedding.centre_spreads
    decided = {"centres": positions or spreads, "initialisation": positions, "spread": spreads}
    if clash := [name for name in search.over if decided.get(name)]:
        reset = " ".join(f"--set {EMBEDDING}.{word}" for word in ("centre_positions=[]", "centre_spreads=[]"))
        raise ConfigError(
            f"{EMBEDDING} has explicit centres or spreads, which decide {', '.join(clash)}. Search other fields, as in "
            f"--over domain, or leave them out: {reset} --set {EMBEDDING}.initialisation=uniform."
        )


def with_embedding(config: RunConfig, embedding: Mapping[str, Any]) -> RunConfig:
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
    losses, reasons = _read(study, search.config.training.seed)
    for number, values in enumerate(planned):
        known = {seed for seed in search.seeds if seed in losses[number] or (number, seed) in reasons}
        for _ in range(search.steps * len(known)):
            on_step()
        if len(known) < len(search.seeds) and not any((number, seed) in reasons for seed in known):
            study.enqueue_trial(dict(values), user_attrs={"number": number})
            _try(study, search, values, losses[number], on_step)
    losses, reasons = _read(study, search.config.training.seed)
    complete = {
        number: {seed: losses[number][seed] for seed in search.seeds}
        for number in range(len(planned))
        if losses[number].keys() >= set(search.seeds)
    }
    if not complete:
        reason = next(reasons[len(planned) - 1, seed] for seed in search.seeds if (len(planned) - 1, seed) in reasons)
        raise TrainingError(f"all {len(planned)} trials crashed, the last one with {reason}")
    best = min(complete, key=lambda number: np.mean(list(complete[number].values())))
    own = complete.get(0, {})
    return SearchResult(planned[best], complete[best], own, len(planned), len(planned) - len(complete))


def _try(
    study: optuna.Study, search: SearchConfig, values: Mapping[str, Value], known: Losses, on_step: OnStep
) -> None:
    """Train what is queued with each seed; a crash ends nothing but this trial."""
    trial = study.ask()
    for parameter in search.parameters:
        _suggest(trial, parameter, values[parameter.name])
    losses = {seed: known[seed] for seed in search.seeds if seed in known}
    for seed in search.seeds:
        if seed in losses:
            continue
        try:
            changed = with_embedding(search.config, values)
            losses[seed], _ = short_run(_with_seed(changed, seed), search.steps, on_step)
        except _CRASHES as error:
            trial.set_user_attr("crashed_seed", seed)
            trial.set_user_attr("reason", f"{type(error).__name__}: {error}")
            study.tell(trial, state=_states().FAIL)
            return
        trial.set_user_attr("losses", {str(seed): loss for seed, loss in losses.items()})
    study.tell(trial, float(np.mean(list(losses.values()))))


def _with_seed(config: RunConfig, seed: int) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})


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
    if known not in (None, search.fingerprint, search.old_fingerprint):
        raise ConfigError(
            f"{path} belongs to another search: {known} there, {search.fingerprint} here. Choose another --study file."
        )
    if known is None:
        study.set_user_attr("fingerprint", search.fingerprint)
    return study


def _read(study: optuna.Study, own_seed: int) -> tuple[dict[int, dict[int, float]], dict[tuple[int, int], str]]:
    """Return the losses by number in the plan and seed, and why runs crashed.

    Studies from before there were several seeds hold one loss per trial, of the configuration's own seed.
    """
    losses: dict[int, dict[int, float]] = defaultdict(dict)
    reasons: dict[tuple[int, int], str] = {}
    for trial in study.get_trials(deepcopy=False):
        number = trial.user_attrs["number"]
        alone = {} if trial.value is None else {own_seed: trial.value}
        losses[number] |= {int(seed): loss for seed, loss in trial.user_attrs.get("losses", alone).items()}
        if "reason" in trial.user_attrs:
            reasons[number, trial.user_attrs.get("crashed_seed", own_seed)] = trial.user_attrs["reason"]
    return losses, reasons


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
    """Train centres and spreads from where the configuration puts them; what the best seed's became is the result."""
    config = with_embedding(search.config, {"learnable": True})
    method = {"method": "gradient"}
    study = Study(path, search.fingerprint | method, search.old_fingerprint | method)
    done = {trial.get("seed", config.training.seed): trial for trial in study}
    for seed in search.seeds:
        if seed in done:
            for _ in range(search.steps):
                on_step()
            continue
        loss, basis = short_run(_with_seed(config, seed), search.steps, on_step)
        done[seed] = {"seed": seed, "loss": loss, "centres": basis.centres, "spreads": basis.spreads}
        study.add(done[seed])
    losses = {seed: done[seed]["loss"] for seed in search.seeds}
    best = done[min(losses, key=lambda seed: losses[seed])]
    return SearchResult(_explicit(best["centres"], best["spreads"]), losses)


def _explicit(centres: Sequence[float], spreads: Sequence[float]) -> dict[str, Any]:
    """Return an embedding that begins with these centres and spreads, in the fewest digits that mean the same."""
    ordered = sorted(zip(centres, spreads, strict=True))
    return {
        "learnable": True,
        "initialisation": _EXPLICIT,
        "spread": 1.0,
        "centre_positions": [float(str(np.float32(centre))) for centre, _ in ordered],
        "centre_spreads": [max(float(str(np.float32(spread))), SPREAD_FLOOR) for _, spread in ordered],
    }
