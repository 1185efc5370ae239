"""A short run is decided by its configuration and seed."""

from audiodiff.search.rbf import with_embedding
from audiodiff.search.short_run import short_run


def test_a_short_run_is_decided_by_configuration_and_seed(tiny_run_config):
    steps = []
    loss, basis = short_run(tiny_run_config, 3, lambda: steps.append(1))
    assert short_run(tiny_run_config, 3) == (loss, basis)
    assert len(steps) == 3
    assert len(basis.centres) == 8
    assert len(set(basis.spreads)) > 1
    other, _ = short_run(with_embedding(tiny_run_config, {"spread": 4.0}), 3)
    assert other != loss
