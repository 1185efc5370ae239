"""Make audio with an exported model; needs numpy and onnxruntime only."""

import argparse
import json
import sys
import wave

import numpy as np
import onnxruntime
from numpy.typing import NDArray


def draw(seed: int, number: int, n_samples: int) -> NDArray[np.float32]:
    """Return the noise of a seed of 32 bits that audiodiff draws too: Philox-2x32-10 and Box-Muller."""
    low, high, key = np.arange(n_samples, dtype=np.uint64), np.uint64(number & 0xFFFFFFFF), seed & 0xFFFFFFFF
    for _ in range(10):
        product = low * np.uint64(0xD256D193)
        low, high = (product >> np.uint64(32)) ^ np.uint64(key) ^ high, product & np.uint64(0xFFFFFFFF)
        key = (key + 0x9E3779B9) & 0xFFFFFFFF
    radius = np.sqrt(-2 * np.log((low.astype(np.float32) + np.float32(0.5)) / np.float32(2**32)))
    noise: NDArray[np.float32] = radius * np.cos(high.astype(np.float32) * np.float32(2 * np.pi / 2**32))
    return noise


def synthesise(model: str, source: str, target: str, seed: int) -> None:
    """Make a WAV file of 16 bits."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of nodes that it casts at run time instead of once
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["audiodiff"])
    inputs = {}
    if about["mel"]:
        inputs["mel"] = np.load(source).astype(np.float32)[None]
        n_hops = inputs["mel"].shape[2] - about["frames_beyond_hops"]
    else:
        n_hops = -(-round(about["seconds"] * about["sample_rate"]) // about["hop_length"])
        if about["labels"]:
            if source not in about["labels"]:
                sys.exit(f"This model has no label {source}. It has: {', '.join(about['labels'])}.")
            inputs["label"] = np.array([about["labels"].index(source)])
    if n_hops > about["max_frames"]:
        sys.exit(f"{source} has {n_hops} frames; this model takes at most {about['max_frames']}. Cut it at pauses.")
    noise = [draw(seed, number, n_hops * about["hop_length"])[None] for number in about["draws"]]
    audio = session.run(["audio"], {"noise": np.stack(noise).astype(np.float32), **inputs})[0][0]
    with wave.open(target, "wb") as file:
        file.setparams((1, 2, about["sample_rate"], 0, "NONE", ""))
        file.writeframes((audio.clip(-1, 1) * 32767).round().astype("<i2").tobytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="pipeline.onnx")
    parser.add_argument("source", help="a mel (n_mels, frames) as .npy, or a label (of a model without labels: -)")
    parser.add_argument("target", help="a WAV file")
    parser.add_argument("--seed", type=int, default=0)
    synthesise(**vars(parser.parse_args()))
