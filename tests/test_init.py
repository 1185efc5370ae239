"""The public names: all there, nothing else, and found by tools."""

import pytest

import audiodiff


def test_names_are_listed_before_they_are_loaded():
    assert set(audiodiff.__all__) <= set(dir(audiodiff))


@pytest.mark.parametrize("name", audiodiff.__all__)
def test_every_public_name_loads(name):
    value = getattr(audiodiff, name)
    assert value is audiodiff.__dict__[name]
    assert name == "__version__" or value.__name__ == name


def test_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="Vocodr"):
        audiodiff.Vocodr  # noqa: B018
