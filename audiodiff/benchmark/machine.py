"""The machine: its description, the speed of its matrix products, and the memory of this process."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from audiodiff import __version__
from audiodiff.benchmark.results import Machine, MatmulResult, Measurement, Memory, Roofline
from audiodiff.benchmark.timing import TimingOptions, synchroniser, time_interleaved
from audiodiff.engine.choose import cpu_has_bf16
from audiodiff.interop import published_base_config

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

_PACKAGES = ("torch", "triton", "numpy", "diffwave", "vocos")
_SQUARE = {"cpu": 2048, "cuda": 8192}
"""Sides of the square matrices of the roofline: large against every cache and every kernel's tile."""
_ROWS = {"cpu": 4096, "cuda": 1 << 18}
"""Rows of the products of DiffWave BASE: a tile of the CPU engine, and a batch of clips on a GPU."""


_COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 32}
"""Size of the copy that measures memory bandwidth."""
_SIDE_BESIDE_ROWS = {"cpu": 1024, "cuda": 8192}
_COPIED_BESIDE_ROWS = {"cpu": 1 << 26, "cuda": 1 << 30}
"""Sizes of the products and copies between the repeats of a row: as small as the rates allow."""


def has_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        # From Ampere on; older ones emulate it.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and cpu_has_bf16()


def describe_machine(device: torch.device) -> Machine:
    """Describe the machine and the software on it.

    Args:
        device: Where it computes.
    """
    cpu = cpu_name()
    versions = {"audiodiff": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    if device.type == "cuda":
        versions["cuda"] = str(torch.version.cuda)
    return Machine(
        device=device.type,
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        cpu=cpu,
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        bf16=has_bf16(device),
        features=_features(device),
        system=platform.platform(),
        versions=versions,
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )


def _features(device: torch.device) -> tuple[str, ...]:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        return (f"compute {major}.{minor}", f"TF32: products {products}, convolutions {convolutions}")
    probes = {"AMX": "_is_amx_tile_supported", "AVX512-bf16": "_is_avx512_bf16_supported"}
    found = [name for name, probe in probes.items() if getattr(torch.cpu, probe, bool)()]
    return (*found, torch.backends.cpu.get_cpu_capability())


def cpu_name() -> str:
    """Return what the processor is called."""
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit_of_checkout() -> str | None:
    """Return the commit of the checkout that this package runs from, marked where files were changed since."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed, maybe inside a checkout of something else
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip() or None


def matmul_shapes(device: torch.device, square: int | None = None) -> dict[str, tuple[int, int, int]]:
    """Return the matrix products to measure, name to (m, k, n); the first is the roofline.

    Args:
        device: Decides the sizes.
        square: Side of the square matrices, in place of the usual one.
    """
    side, channels = square or _SQUARE[device.type], published_base_config().network.channels
    rows = square or _ROWS[device.type]
    return {
        "square": (side, side, side),
        "taps of DiffWave BASE": (rows, 3 * channels, 2 * channels),
        "output of DiffWave BASE": (rows, channels, 2 * channels),
    }


@torch.inference_mode()
def matmul_rates(
    device: torch.device,
    dtypes: Iterable[str],
    timing: TimingOptions,
    square: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[MatmulResult, ...]:
    """Measure matrix products, all shapes of a precision in turns.

    Args:
        device: Where.
        dtypes: Names in `DTYPES`.
        timing: For each precision.
        square: As in `matmul_shapes`.
        clock: Seconds.

    Returns:
        One result per precision and shape.
    """
    rates = []
    shapes = matmul_shapes(device, square)
    for dtype in dtypes:
        runs = {}
        for name, (m, k, n) in shapes.items():
            left, right = (torch.randn(size, device=device).to(DTYPES[dtype]) for size in ((m, k), (k, n)))
            out = torch.empty(m, n, device=device, dtype=DTYPES[dtype])
            # Small products are repeated, so that the overhead of a call does not count.
            count = max(1, round(2 * shapes["square"][0] ** 3 / (2 * m * k * n)))
            runs[name] = (_Product(left, right, out, count), 2.0 * m * k * n * count)
        synchronise = synchroniser(device)
        for product, _ in runs.values():
            product()
        times = time_interleaved({name: product for name, (product, _) in runs.items()}, timing, synchronise, clock)
        for name, (m, k, n) in shapes.items():
            rate = Measurement.from_values([runs[name][1] / seconds for seconds in times[name]])
            rates.append(MatmulResult(name=name, m=m, k=k, n=n, dtype=dtype, rate=rate, roofline=name == "square"))
    return tuple(rates)


@torch.inference_mode()
def copy_rate(
    device: torch.device, timing: TimingOptions, clock: Callable[[], float] = time.perf_counter
) -> Measurement:
    """Measure memory bandwidth: bytes per second, read and written, of a copy larger than every cache.

    Args:
        device: Whose memory.
        timing: How long to measure.
        clock: Seconds.
    """
    source = torch.ones(_COPIED_BYTES[device.type] // 4, device=device)
    target, synchronise = torch.empty_like(source), synchroniser(device)
    target.copy_(source)
    times = time_interleaved({"": lambda: target.copy_(source)}, timing, synchronise, clock)[""]
    return Measurement.from_values([2.0 * source.nbytes / seconds for seconds in times])


class RooflineProbe:
    """Measures the roofline whenever it is called: after every round of a row, under the same load as the row.

    What it needs of memory it frees. The memory of the row is read before that, after the first round.

    Args:
        device: Where.
        dtypes: Precisions of the row.
        monitor: Of the row's memory; None where nobody asks for it.
        clock: Seconds, as of the row.
    """

    def __init__(
        self,
        device: torch.device,
        dtypes: Iterable[str],
        monitor: MemoryMonitor | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._device, self._monitor, self._clock = device, monitor, clock
        self._products: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
        self._copies: list[float] = []
        self.memory = Memory()

    @torch.inference_mode()
    def __call__(self) -> None:
        """Measure once."""
        if self._monitor is not None:
            self.memory, self._monitor = self._monitor.memory(), None
        side = _SIDE_BESIDE_ROWS[self._device.type]
        for dtype, rates in self._products.items():
            left = torch.randn(side, side, device=self._device).to(DTYPES[dtype])
            product = _Product(left, left, torch.empty_like(left), 1)
            rates.append(2.0 * side**3 / self._second_run(product))
        source = torch.ones(_COPIED_BESIDE_ROWS[self._device.type] // 4, device=self._device)
        target = torch.empty_like(source)
        self._copies.append(2.0 * source.nbytes / self._second_run(lambda: target.copy_(source)))

    def _second_run(self, run: Callable[[], object]) -> float:
        synchronise = synchroniser(self._device)
        run()
        synchronise()
        started = self._clock()
        run()
        synchronise()
        return self._clock() - started

    def rooflines(self) -> dict[str, Roofline]:
        """Return what was measured, by precision."""
        copies = Measurement.from_values(self._copies)
        rates = {dtype: Measurement.from_values(values) for dtype, values in self._products.items()}
        return {dtype: Roofline(matmul_rate=rate, copy_rate=copies) for dtype, rate in rates.items()}


class _Product:
    """A matrix product, repeated."""

    def __init__(self, left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, count: int) -> None:
        self._operands, self._out, self._count = (left, right), out, count

    def __call__(self) -> None:
        for _ in range(self._count):
            torch.mm(*self._operands, out=self._out)


class MemoryMonitor:
    """Memory of this process when monitoring starts, and its peak.

    Each job runs in a process of its own, so the peak is that of the job; see `audiodiff.benchmark.timing`.

    Args:
        device: Whose memory; on a GPU, that of torch's allocator.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        self._before = torch.cuda.memory_allocated(device) if device.type == "cuda" else _status_bytes("VmRSS")

    def memory(self) -> Memory:
        """Return the memory at the start and the peak until now."""
        if self._device.type == "cuda":
            return Memory(before=self._before, peak=torch.cuda.max_memory_allocated(self._device))
        return Memory(before=self._before, peak=_status_bytes("VmHWM") or _peak_resident_set())


def available_bytes(device: torch.device) -> int | None:
    """Return the free memory, or None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def _status_bytes(name: str) -> int | None:
    # Not from `resource`: what that reports includes the peak of the process that started this one.
    return _kilobytes(Path("/proc/self/status"), name)


def _kilobytes(path: Path, name: str) -> int | None:
    if not path.is_file():
        return None
    found = re.search(rf"^{name}:\s*(\d+) kB", path.read_text(encoding="utf-8"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _peak_resident_set() -> int | None:
    """Return the largest resident set of this process on systems without /proc."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
