"""The corpus that CONTRIBUTING.md adds as an example works as it is written there."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def birdsong(monkeypatch):
    module = ModuleType("recipes.birdsong")
    exec(compile(BLOCKS[0], "CONTRIBUTING.md", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "recipes.birdsong", module)
    return module


def test_the_example_is_a_recipe_that_passes_its_test(birdsong, tmp_path, save_tone, prepare):
    assert len(BLOCKS) == 2
    assert BLOCKS[0].count("\n") < 100
    test = {"birdsong": birdsong}
    exec(compile(BLOCKS[1], "CONTRIBUTING.md", "exec"), test)
    test["test_birdsong"](tmp_path, save_tone, prepare)
