"""The one place where torchaudio is imported: with its compiled extension where that loads, without it elsewhere.

torchaudio's wheels bring libraries linked against one build of torch. Beside a torch for CPUs only, or another CUDA,
they do not load and `import torchaudio` fails, although resampling, transforms, corpora and most effects are plain
Python over torch. torchaudio is made to run without its libraries: it looks for them on import, and goes on if there
are none. So where they are present but do not load, this module hides them from that search and imports once more. What
is then missing is forced alignment, the CUDA CTC decoder and the fast path of IIR filters; audiodiff uses none of them.
"""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType

_LOG = logging.getLogger(__name__)


def import_torchaudio() -> ModuleType:
    """Import torchaudio, if need be without its compiled extension.

    Returns:
        The package `torchaudio`; plain imports of it find the same one from then on.

    Raises:
        ImportError: If torchaudio is not installed, or fails for another reason than its extension.
    """
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError) as error:  # a library that does not load; one for another CUDA
        _LOG.debug("torchaudio's compiled extension does not load (%s); going on without it", error)
    _hide_libraries()
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError, AttributeError) as error:
        raise ImportError(
            f"torchaudio does not load, with or without its compiled extension: {error}. "
            "Install the torchaudio that was built for the installed torch, from the same index."
        ) from error


def _hide_libraries() -> None:
    """Make torchaudio's search for its libraries find nothing."""
    # Up to torchaudio 2.9 it asks whether this module can be found; None is Python's way of saying no.
    sys.modules["torchaudio.lib._torchaudio"] = None  # type: ignore[assignment]
    # From 2.10 on it lists a folder. The failed import left the module that knows it, which the next import reuses.
    probe = sys.modules.get("torchaudio._extension.utils")
    if probe is not None and hasattr(probe, "_LIB_DIR"):
        vars(probe)["_LIB_DIR"] /= "absent"
