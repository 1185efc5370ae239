"""Compile kernels for a GPU that is not there: jobs as JSON on stdin, what each takes as a line of JSON on stdout."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from audiodiff.diffusion.noise import _kernel
from audiodiff.engine import kernels

POINTERS = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32"}


def layer(job):
    kernel, pointer = getattr(kernels, job["kernel"]), POINTERS[job["dtype"]]
    tensors = ("h_in", "h_out", "skip", "condition", "level", "taps", "output")
    types = dict.fromkeys(tensors, pointer) | {"n_valid": "*i32"} | dict.fromkeys(job["constants"], "constexpr")
    aligned = [*tensors, "n_valid", "condition_clip", "condition_row", "level_clip"]
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    return kernel, types, job["constants"], attributes


def noise(job):
    kernel, constants = _kernel(), {"turn": job["turn"], "block": 1024}
    types = {"out": "*fp32", "keys": "*i64", "start": job["start"]} | dict.fromkeys(constants, "constexpr")
    return kernel, types, constants, {}


def usage(binary: bytes) -> dict[str, int]:
    import triton

    tool = Path(triton.__file__).with_name("backends") / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        run = subprocess.run([str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True)
    return {name.lower(): int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", run.stdout)}


def main() -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    warnings.simplefilter("ignore")
    work = json.load(sys.stdin)
    for job in work["jobs"]:
        kernel, types, constants, attributes = (noise if job["kernel"] == "noise" else layer)(job)
        names = kernel.arg_names
        source = ASTSource(
            kernel,
            signature={name: types.get(name, "i32") for name in names},
            constexprs={(names.index(name),): value for name, value in constants.items()},
            attrs=attributes,
        )
        options = {"num_warps": job.get("warps", 4), "num_stages": job.get("stages", 2)}
        try:
            made = triton.compile(source, target=GPUTarget("cuda", work["architecture"], 32), options=options)
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"[:2000]}), flush=True)
            continue
        used = usage(made.asm["cubin"])
        approximations = " ".join(re.findall(r"\w+\.approx\S*", made.asm["ptx"]))
        print(
            json.dumps(
                {
                    "shared": made.metadata.shared,
                    "registers": used["reg"],
                    "stack": used["stack"],
                    "approximations": approximations,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
