"""The architecture rules, read from the source: who may import whom, and the habits a linter does not know.

The first tables are the rule; a newcomer need read no further. A new file or package in audiodiff/ must be given its
place in `LAYERS`.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Bottom first. A part imports parts of lower layers only, never its own layer; `SIDEWAYS` lists the exceptions.
LAYERS = (
    {"errors", "__version__"},
    {"choices", "text"},
    {"config"},
    {"audio", "hub"},
    {"diffusion", "networks"},
    {"engine", "data", "checkpoint"},
    {"pipelines", "training", "evaluation", "interop", "benchmark", "search"},
    {"server", "project"},
    {"ui"},
    {"cli"},
    {"__init__", "__main__"},
)
SIDEWAYS = {
    "pipelines": {"evaluation"},  # files are scored as they are made
    "training": {"pipelines", "evaluation"},  # validation makes audio the way users do, and scores it
    "benchmark": {"pipelines", "training", "interop"},  # it times what users run
    "interop": {"pipelines"},  # what is exported is a whole pipeline
    "search": {"pipelines", "training", "evaluation"},  # it scores what users run, and trains for a short while
    "__main__": {"__init__"},
}
# Parts that may use less than their layer allows.
NARROW = {
    "diffusion": {"errors", "config"},  # it knows tensors only
    "recipes": {"recipes", "audio", "data", "errors", "choices", "text"},  # they know corpora, no models
    "egs": {"egs", "recipes"},  # they call the command line
}
OUTER_EDGES = {"cli", "server", "ui"}  # where any error ends as a message; elsewhere each is named
FOREIGN_CODE = {"audiodiff.evaluation.plugin"}  # which calls functions of users, whose errors cannot be named
# Packages from outside, where they are limited; the standard library is always allowed.
OUTSIDE = {
    "choices": {"click", "pydantic_core"},
    "errors": set(),
    "text": {"yaml"},
    "config": {"pydantic", "yaml"},
    "diffusion": {"torch", "numpy", "triton"},
    "__init__": set(),
}
# Functions that write, yet not through `audiodiff.audio.io.replacing`.
OWN_WRITERS = {
    "save_model",  # a whole folder, moved into place
    "push_model",  # a temporary folder
    "_write_checkpoint",  # likewise
    "_append",  # a study grows by lines
    "_start",  # a run's log, likewise
    "locked",  # a lock is a file for its own sake
    "_fetch",  # a download goes on where it was
    "_flac",  # into memory
    "_packed_mel",  # likewise
    "_plot_clips",  # likewise
    "_write_package",  # to a name that `replacing` lends its caller
    "synthesise",  # of the runner beside exported graphs, which imports nothing of ours
    "write_mel",  # of an eg, which imports nothing; `prepare --mels` checks what it wrote
}
LIMIT_FUNCTION_LINES = 60
LIMIT_FILE_LINES = 400

OURS = ("audiodiff", "recipes", "egs")
LAYER_OF = {part: height for height, layer in enumerate(LAYERS) for part in layer}


# --- reading the source -----------------------------------------------------------------------------------------------


def sources(root: Path) -> Iterator[tuple[Path, ast.Module]]:
    for folder in OURS:
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root), ast.parse(path.read_text(encoding="utf-8"))


def part_of(module: str) -> str:
    """Name the part a dotted module belongs to: audiodiff.audio.io -> audio, recipes.ljspeech -> recipes."""
    first, *rest = module.split(".")
    if first != "audiodiff":
        return first
    return rest[0] if rest else "__init__"


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(node: ast.AST, path: Path) -> list[str]:
    """List the dotted modules that one node of a file imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = path.parent.parts[: len(path.parts) - node.level] if node.level else ()
        module = ".".join(filter(None, (*base, node.module)))
        # `from audiodiff import x` means the part x if there is one, else a public name of the top
        return [f"{module}.{alias.name}" if alias.name in LAYER_OF else module for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
        return [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
    return []


# --- the checks: each returns what is wrong ---------------------------------------------------------------------------


def wrong_imports(root: Path) -> list[str]:
    return [
        f"{path}:{node.lineno}: {part_of(module_of(path))} must not import {module}"
        for path, tree in sources(root)
        for node in ast.walk(tree)  # so imports inside functions and under TYPE_CHECKING count too
        for module in imported(node, path)
        if not may_import(part_of(module_of(path)), module)
    ]


def may_import(part: str, module: str) -> bool:
    outside = module.partition(".")[0]
    if outside not in OURS:
        return outside in sys.stdlib_module_names or outside in OUTSIDE.get(part, {outside})
    target = part_of(module)
    if part in NARROW:
        return target == part or target in NARROW[part]
    if part not in LAYER_OF or target not in LAYER_OF:
        return False
    return target == part or LAYER_OF[target] < LAYER_OF[part] or target in SIDEWAYS.get(part, ())


def homeless_files(root: Path) -> list[str]:
    parts = {path: part_of(module_of(path)) for path, _ in sources(root) if path.parts[0] == "audiodiff"}
    return [f"{path}: give {part!r} a place in LAYERS" for path, part in parts.items() if part not in LAYER_OF]


def scripts_past_the_command_line(root: Path) -> list[str]:
    inside = re.compile(r"-m\s+audiodiff\.|\b(import|from)\s+audiodiff\b|\baudiodiff/\S+\.py\b")
    found = []
    for path in sorted((root / "egs").rglob("*.sh")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if inside.search(line):
                found.append(f"{path.relative_to(root)}:{number}: call the command `audiodiff`, not its modules")
    return found


def asserts_and_wide_excepts(root: Path) -> list[str]:
    found = []
    for path, tree in sources(root):
        module = module_of(path)
        any_error = part_of(module) in OUTER_EDGES or module in FOREIGN_CODE
        too_wide = {None} if any_error else {None, "Exception", "BaseException"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                found.append(f"{path}:{node.lineno}: assert outside tests; raise an error of audiodiff.errors")
            if isinstance(node, ast.ExceptHandler) and too_wide & caught(node):
                found.append(f"{path}:{node.lineno}: say which errors are expected")
    return found


def caught(handler: ast.ExceptHandler) -> set[str | None]:
    if handler.type is None:
        return {None}
    return {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}


def oversized(root: Path) -> list[str]:
    found = []
    for path, tree in sources(root):
        n_lines = (root / path).read_text(encoding="utf-8").count("\n")
        if n_lines > LIMIT_FILE_LINES:
            found.append(f"{path}: {n_lines} lines, at most {LIMIT_FILE_LINES}: is it still one idea?")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LIMIT_FUNCTION_LINES:
                    found.append(
                        f"{path}:{node.lineno}: {node.name} has {length} lines, at most {LIMIT_FUNCTION_LINES}"
                    )
    return found


def undocumented(root: Path) -> list[str]:
    return [
        f"{path}:{line}: {name} has no docstring" for path, tree in sources(root) for line, name in _undocumented(tree)
    ]


def _undocumented(scope: ast.Module | ast.ClassDef) -> Iterator[tuple[int, str]]:
    for node in scope.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield node.lineno, node.name
            if isinstance(node, ast.ClassDef):
                yield from _undocumented(node)


def unguarded_writes(root: Path) -> list[str]:
    """Find functions that write a file by themselves: half-written files, replaced devices, names too long."""
    return [
        f"{path}:{function.lineno}: {function.name} writes without `replacing`"
        for path, tree in sources(root)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name not in OWN_WRITERS
        if any(map(_writes, ast.walk(function))) and "replacing(" not in ast.unparse(function)
    ]


def _writes(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func).split(".")
    mode = [arg.value for arg in [*node.args, *(word.value for word in node.keywords)] if isinstance(arg, ast.Constant)]
    if called[-1] in ("open", "SoundFile", "fdopen", "ZipFile"):
        return any(isinstance(value, str) and re.fullmatch("[rwaxb+t]*[wax+][rwaxb+t]*", value) for value in mode)
    return called[-1] in {"write_text", "write_bytes", "savefig", "save_file", "savez", "touch"} or called in (
        *(["torch", "save"], ["np", "save"], ["soundfile", "write"], ["sf", "write"]),
    )


CHECKS = (
    unguarded_writes,
    wrong_imports,
    homeless_files,
    scripts_past_the_command_line,
    asserts_and_wide_excepts,
    oversized,
    undocumented,
)


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_house_rule(check):
    assert check(ROOT) == []


def test_the_house_is_read():
    assert {Path("audiodiff/__init__.py"), Path("audiodiff/errors.py")} <= {path for path, _ in sources(ROOT)}


LONG_FUNCTION = "def _long():\n" + "    pass\n" * LIMIT_FUNCTION_LINES


@pytest.mark.parametrize(
    ("check", "file", "text"),
    [
        (wrong_imports, "audiodiff/errors.py", "from audiodiff.config import Config"),
        (wrong_imports, "audiodiff/config.py", "import torch"),
        (wrong_imports, "audiodiff/audio/io.py", "import audiodiff.pipelines"),
        (wrong_imports, "audiodiff/audio/io.py", "from audiodiff import pipelines"),
        (wrong_imports, "audiodiff/audio/io.py", "from audiodiff import Vocoder"),
        (wrong_imports, "audiodiff/audio/io.py", "from .. import pipelines"),
        (wrong_imports, "audiodiff/audio/io.py", "from ..data.manifest import read"),
        (wrong_imports, "audiodiff/audio/io.py", "def _f():\n    from audiodiff.cli import main"),
        (wrong_imports, "audiodiff/audio/io.py", "import importlib\nimportlib.import_module('audiodiff.data')"),
        (wrong_imports, "audiodiff/diffusion/samplers.py", "from audiodiff.networks import diffwave"),
        (wrong_imports, "audiodiff/diffusion/samplers.py", "from audiodiff.audio import mel"),
        (wrong_imports, "audiodiff/diffusion/samplers.py", "import librosa"),
        (wrong_imports, "audiodiff/networks/diffwave.py", "from audiodiff.diffusion import process"),
        (wrong_imports, "audiodiff/data/dataset.py", "import audiodiff.checkpoint"),
        (wrong_imports, "audiodiff/pipelines.py", "import audiodiff.training.trainer"),
        (wrong_imports, "audiodiff/training/trainer.py", "import recipes.ljspeech"),
        (wrong_imports, "recipes/ljspeech.py", "from audiodiff.pipelines import Vocoder"),
        (wrong_imports, "recipes/ljspeech.py", "import audiodiff"),
        (wrong_imports, "egs/ljspeech/vocoder/plot.py", "from audiodiff.audio import io"),
        (homeless_files, "audiodiff/utils.py", ""),
        (unguarded_writes, "recipes/x.py", "def _f(path):\n    path.write_text('')"),
        (
            unguarded_writes,
            "audiodiff/cli/main.py",
            "def _f(path):\n    with open(path, mode='a+b') as file:\n        pass",
        ),
        (unguarded_writes, "audiodiff/data/dataset.py", "def _f(path):\n    torch.save({}, path)"),
        (scripts_past_the_command_line, "egs/ljspeech/run.sh", "python3 -m audiodiff.training.trainer conf.yaml"),
        (scripts_past_the_command_line, "egs/ljspeech/run.sh", "python3 -c 'from audiodiff import Vocoder'"),
        (asserts_and_wide_excepts, "audiodiff/cli/main.py", "assert True"),
        (asserts_and_wide_excepts, "audiodiff/cli/main.py", "try:\n    pass\nexcept:\n    pass"),
        (asserts_and_wide_excepts, "audiodiff/audio/io.py", "try:\n    pass\nexcept Exception:\n    pass"),
        (asserts_and_wide_excepts, "recipes/x.py", "try:\n    pass\nexcept (OSError, BaseException):\n    pass"),
        (oversized, "audiodiff/audio/io.py", "\n" * (LIMIT_FILE_LINES + 1)),
        (oversized, "audiodiff/audio/io.py", LONG_FUNCTION),
        (undocumented, "audiodiff/audio/io.py", "def load(): pass"),
        (undocumented, "audiodiff/audio/io.py", "class Reader:\n    'Read.'\n    def load(self): pass"),
    ],
)
def test_a_violation_is_found(check, file, text, tmp_path):
    for path, content in {"audiodiff/pipelines.py": "", file: text}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content, encoding="utf-8")
    (found,) = check(tmp_path)
    assert found.startswith(file)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("audiodiff/audio/io.py", "import librosa\nfrom audiodiff import __version__\nfrom audiodiff.errors import X"),
        ("audiodiff/audio/io.py", "from . import mel\nfrom .mel import MelSpectrogram\nfrom ..config import MelConfig"),
        ("audiodiff/diffusion/noise.py", "import math\nimport numpy as np\nimport torch.nn.functional as F"),
        ("audiodiff/training/validation.py", "from audiodiff.pipelines import Vocoder\nimport audiodiff.evaluation"),
        ("audiodiff/cli/info.py", "try:\n    from audiodiff import checkpoint\nexcept Exception:\n    pass"),
        ("recipes/ljspeech.py", "from recipes import _common\nfrom audiodiff.data.manifest import write"),
        ("egs/ljspeech/run.sh", "python3 -m audiodiff train conf.yaml\naudiodiff vocode audiodiff/assets/clips/a.flac"),
    ],
)
def test_what_is_allowed_passes(file, text, tmp_path):
    for path, content in {"audiodiff/audio/mel.py": "", "audiodiff/checkpoint.py": "", file: text}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content, encoding="utf-8")
    assert [problem for check in CHECKS for problem in check(tmp_path)] == []


def test_sideways_arrows_form_no_circle():
    TopologicalSorter(SIDEWAYS).prepare()  # raises CycleError


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'torch', 'numpy', 'librosa', 'pydantic', 'matplotlib'}"
    code = f"import sys, audiodiff; audiodiff.__version__, dir(audiodiff); print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"
