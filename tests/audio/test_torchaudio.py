"""torchaudio is imported whether its compiled extension loads or not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from audiodiff.audio.resample import import_torchaudio

# Whether torchaudio's libraries load is decided here, so that both ways are tested on every machine, and so are the
# operators that a loaded library would register. In a process of its own, because it imports torchaudio three times.
SCRIPT = """
import json, sys, torch
from audiodiff.audio.resample import import_torchaudio

load = torch.ops.load_library
libraries = [torch.library.Library("_torchaudio", "DEF"), torch.library.Library("torchaudio", "DEF")]
for name, answer in {"cuda_version": 12080, "is_align_available": 1}.items():
    libraries[0].define(f"{name}() -> int")
    libraries[0].impl(name, lambda answer=answer: answer, "CompositeImplicitAutograd")
for name in ("_lfilter_core_loop", "_overdrive_core_loop"):
    libraries[1].define(f"{name}() -> ()")

def load_library(path):
    if "torchaudio" not in str(path):
        load(path)
    elif case == "fails":
        raise OSError(f"Could not load this library: {path}")

torch.ops.load_library = load_library
found = {}
for case, torch.version.cuda in {"loads": "12.8", "fails": "12.8", "other CUDA": "11.0"}.items():
    torchaudio = import_torchaudio()
    assert sys.modules["torchaudio"] is torchaudio is import_torchaudio()
    assert torchaudio.transforms.Resample(2, 1)(torch.zeros(1, 100)).shape == (1, 50)
    assert torchaudio.transforms.MelSpectrogram(n_mels=8)(torch.zeros(1, 1000)).shape == (1, 8, 6)
    found[case] = torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE
    for name in [name for name in sys.modules if name.startswith("torchaudio")]:
        del sys.modules[name]
print(json.dumps(found))
"""


def test_torchaudio_is_imported_with_and_without_its_extension() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {"loads": True, "fails": False, "other CUDA": False}


def test_torchaudio_that_does_not_load_at_all_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audiodiff.audio.resample._hide_libraries", lambda: None)
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(ModuleNotFoundError):
        import_torchaudio()

    def fail(name: str) -> None:
        raise OSError("no such library")

    with monkeypatch.context() as patch:
        patch.setattr("audiodiff.audio.resample.importlib.import_module", fail)
        with pytest.raises(ImportError, match=r"torchaudio does not load, .*: no such library. Install the torchaudio"):
            import_torchaudio()
