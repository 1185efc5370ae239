"""Make audio with an exported model; needs numpy and onnxruntime only."""

import argparse
import json
import sys
import wave
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray


def draw(seed: int, number: int, n_samples: int) -> NDArray[np.float32]:
    """Return the noise of a seed of 32 bits that audiodiff draws too: Philox-2x32-10 and Box-Muller."""
    low, high, key = np.arange(n_samples, dtype=np.uint64), np.uint64(number & 0xFFFFFFFF), seed
    for _ in range(10):
        product = low * np.uint64(0xD256D193)
        low, high = (product >> np.uint64(32)) ^ np.uint64(key) ^ high, product & np.uint64(0xFFFFFFFF)
        key = (key + 0x9E3779B9) & 0xFFFFFFFF
    radius = np.sqrt(-2 * np.log((low.astype(np.float32) + np.float32(0.5)) / np.float32(2**32)))
    noise: NDArray[np.float32] = radius * np.cos(high.astype(np.float32) * np.float32(2 * np.pi / 2**32))
    return noise


def read(source: str, about: dict[str, Any]) -> tuple[dict[str, NDArray[Any]], int]:
    """Return the inputs that a mel or a label makes, and how many hops of audio."""
    if not about["mel"]:
        if about["labels"] and source not in about["labels"]:
            sys.exit(f"This model has no label {source}. It has: {', '.join(about['labels'])}.")
        label = {"label": np.array([about["labels"].index(source)])} if about["labels"] else {}
        return label, -(-round(about["seconds"] * about["sample_rate"]) // about["hop_length"])
    mel, n_mels = np.asarray(np.load(source)), about["mel"]["n_mels"]
    if mel.ndim != 2 or len(mel) != n_mels or mel.dtype.kind not in "fiu" or not np.isfinite(mel).all():
        hint = "Save mel.T." if mel.shape[1:] == (n_mels,) else "One clip, in the convention of this model."
        sys.exit(f"{source} holds {mel.dtype} {mel.shape}; expected ({n_mels}, frames) without NaN. {hint}")
    n_hops = mel.shape[1] - about["frames_beyond_hops"]
    if not 0 < n_hops <= about["max_frames"]:
        sys.exit(f"{source} has {n_hops} frames; this model takes 1 to {about['max_frames']}. Cut it at pauses.")
    return {"mel": mel.astype(np.float32)[None]}, n_hops


def synthesise(model: str, source: str, target: str, seed: int) -> None:
    """Make a WAV file of 16 bits."""
    if not 0 <= seed < 1 << 32:
        sys.exit(f"--seed {seed}: expected 0 to {(1 << 32) - 1}.")
    onnxruntime.set_default_logger_severity(3)  # it warns of nodes that it casts at run time instead of once
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["audiodiff"])
    inputs, n_hops = read(source, about)
    if others := {one.name for one in session.get_inputs()} - {"noise", *inputs}:
        sys.exit(f"{model} also takes {', '.join(sorted(others))}: call session.run as this file does, with them.")
    noise = [draw(seed, number, n_hops * about["hop_length"])[None] for number in about["draws"]]
    audio = session.run(["audio"], {"noise": np.stack(noise), **inputs})[0][0]
    if (peak := abs(audio).max()) > 1:
        print(f"{target}: clipped; the peak is {peak:.2f}. If it is far above 1, check the mel.", file=sys.stderr)
    with wave.open(target, "wb") as file:
        file.setparams((1, 2, about["sample_rate"], 0, "NONE", ""))
        file.writeframes((audio * 32768).round().clip(-32768, 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="pipeline.onnx")
    parser.add_argument("source", help="a mel (n_mels, frames) as .npy, or a label (of a model without labels: -)")
    parser.add_argument("target", help="a WAV file")
    parser.add_argument("--seed", type=int, default=0)
    synthesise(**vars(parser.parse_args()))
