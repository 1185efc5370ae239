"""Recordings that turn out unreadable in a run: skipped, counted, listed in its folder; too many of them stop it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from audiodiff.audio.replacing import replacing
from audiodiff.data.dataset import Failure
from audiodiff.errors import DataError

_LOG = logging.getLogger(__name__)


class BadRecordings:
    """The list, one JSON object with `audio` and `reason` per line.

    Args:
        path: Its file, which need not be there; what it lists already counts.
        n_recordings: How many recordings the run has.
        max_share: Fraction of them that may be unreadable.
        write: Whether to write the list; the main process does.

    Attributes:
        reasons: File to reason.
    """

    def __init__(self, path: Path, n_recordings: int, max_share: float, *, write: bool = True) -> None:
        self.path = path
        self.reasons: dict[str, str] = {}
        self._n_recordings = n_recordings
        self._max_share = max_share
        self._write = write
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        for line in lines:
            try:
                entry = json.loads(line)
                self.reasons[entry["audio"]] = entry["reason"]
            except (ValueError, KeyError, TypeError):  # a kill may have cut off the last line
                continue

    def note(self, failure: Failure) -> None:
        """Take a failure into account, once per recording.

        Raises:
            DataError: If too many of the recordings has failed by now.
        """
        name = str(failure.path)
        if name in self.reasons:
            return
        self.reasons[name] = str(failure.error)
        self._save()
        _LOG.warning("skipped from now on (%d so far): %s", len(self.reasons), failure.error)
        fraction = len(self.reasons) / self._n_recordings
        if fraction > self._max_share:
            raise DataError(
                f"{len(self.reasons)} of {self._n_recordings} recordings ({fraction:.1%}) cannot be read; "
                f"data.max_bad_fraction allows {self._max_share:.1%}, and {self.path} lists them. "
                "Repair or remove them, or allow more."
            )

    def _save(self) -> None:
        if not self._write:
            return
        lines = (json.dumps({"audio": audio, "reason": reason}) for audio, reason in self.reasons.items())
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as part:
                part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        except OSError as error:
            _LOG.warning("%s cannot be written: %s", self.path, error)
