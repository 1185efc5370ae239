"""The Hugging Face hub: models fetched from it, and sent to it with a model card. Nothing here runs unless asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from audiodiff.config import ModelConfig
from audiodiff.errors import ModelError, OutputError, needed

PREFIX = "hub:"
"""What a name of the hub begins with, so that no mistyped folder asks it."""
MODEL_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
"""What a name of the hub looks like."""

_LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0", "CC BY 4.0": "cc-by-4.0", "CC0": "cc0-1.0"}
"""Licences by the names that the hub has for them; any other is "other"."""


def download(model_id: str, files: Sequence[str]) -> Path:
    """Fetch files of a model into the hub's cache.

    Args:
        model_id: OWNER/NAME.
        files: Their names.

    Returns:
        The folder they are in.

    Raises:
        MissingPackageError: If the extra `hub` is not installed.
        ModelError: If that is no name, or the hub does not deliver.
    """
    _check(model_id)
    with needed("hub", f"{PREFIX}{model_id}"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    try:
        return Path(snapshot_download(model_id, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"the hub did not deliver {model_id}: {type(error).__name__}. Check the name and the network."
        ) from error


def upload(folder: Path, model_id: str, *, private: bool | None = None, message: str = "Upload a model") -> str:
    """Send the files of a folder to a model of the hub, which is created if there is none of that name.

    Args:
        folder: The model folder, with its card in README.md.
        model_id: OWNER/NAME.
        private: Whether a created model is private; None is the hub's own default for the owner.
        message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        MissingPackageError: If the extra `hub` is not installed.
        ModelError: If that is no name.
        OutputError: If the hub does not take it.
    """
    _check(model_id)
    with needed("hub", f"{PREFIX}{model_id}"):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    api = HfApi()
    refusals: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, ValueError, OSError)  # of its HTTP client
    try:
        api.create_repo(model_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=model_id, folder_path=folder, commit_message=message))
    except refusals as error:
        raise OutputError(
            f"the hub did not take {model_id}: {error}. Check the name, the network, and `hf auth login`."
        ) from error


def _check(model_id: str) -> None:
    if not MODEL_ID.fullmatch(model_id):
        raise ModelError(f"{PREFIX}{model_id} is no name of the hub; expected {PREFIX}OWNER/NAME, as in its address.")


def model_card(config: ModelConfig, model_id: str) -> str:
    """Return a model card in Markdown: what the model is, how to use it, its data, licence and scores.

    Args:
        config: Of the model; its provenance tells data, licence and scores.
        model_id: OWNER/NAME, for the lines of code.
    """
    from yaml import safe_dump

    facts = dict(config.provenance)
    licence = str(facts.pop("licence", "unknown"))
    task = "audio-to-audio" if config.mel else "text-to-audio"
    header = {
        "library_name": "audiodiff",
        "license": _LICENCES.get(licence, "other"),
        "pipeline_tag": task,
        "tags": ["audio", "diffusion", "diffwave", "vocoder" if config.mel else "audio-generation"],
    }
    rows = {"sample rate": f"{config.sample_rate} Hz", "network": config.network.kind, "licence": licence}
    if config.mel:
        mel = config.mel
        rows["mel"] = f"{mel.name}: {mel.n_mels} bins, hop {mel.hop_length} samples, {mel.f_min:g} to {mel.f_max:g} Hz"
    if config.labels:
        rows["labels"] = ", ".join(config.labels)
    if config.speakers:
        rows["speakers"] = ", ".join(config.speakers)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
{safe_dump(header, sort_keys=False).strip()}
---

# {model_id.partition("/")[2]}

A {"vocoder" if config.mel else "generator"} of [audiodiff](https://pypi.org/project/audiodiff/): waveform diffusion
of the DiffWave family.

| | |
|---|---|
{table}

## Use
```sh
pip install 'audiodiff[hub]'
{_command(config, model_id)}
```
```python
{_code(config, model_id)}
```

## Data, training and scores
```yaml
{safe_dump(facts, sort_keys=False, allow_unicode=True, width=100).strip() if facts else "# not stated"}
```
"""


def _command(config: ModelConfig, model_id: str) -> str:
    model = f"--model {PREFIX}{model_id}"
    if config.mel:
        return f"audiodiff vocode in.wav {model} --output out.wav --resample"
    return f"audiodiff generate {model}{_options(config)} --count 8 --output clips/"


def _options(config: ModelConfig) -> str:
    return f" --label {config.labels[0]}" if config.labels else ""


def _code(config: ModelConfig, model_id: str) -> str:
    if config.mel:
        return f"""from audiodiff import Vocoder, save_audio

vocoder = Vocoder.from_pretrained("{PREFIX}{model_id}")
save_audio("out.wav", vocoder(mel), vocoder.sample_rate)  # mel: (n_mels, frames)"""
    given = f"{config.labels[0]!r}, " if config.labels else ""
    return f"""from audiodiff import Generator, save_audio

generator = Generator.from_pretrained("{PREFIX}{model_id}")
save_audio("out.wav", generator.generate({given}level=-1)[0], generator.sample_rate)"""
