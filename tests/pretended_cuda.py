"""A CUDA device that is not there: its tensors compute on the CPU, and refuse what tensors on a GPU refuse.

A tensor on the pretended device says it is on `cuda:0`, and a plain tensor next to it in an operation is an error,
unless it is a scalar, an index, or what is being copied. So code that forgets a tensor on the host fails here as it
does on a GPU, and code that does not can be held against what it computes on the CPU.

To PyTorch's C++ the device is `meta`, which it takes for one of those without a queue of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

CUDA, META, CPU = torch.device("cuda:0"), torch.device("meta"), torch.device("cpu")

_MAY_MIX = {
    *(torch.ops.aten._to_copy.default, torch.ops.aten.to.other),
    torch.ops.aten.copy_.default,
    torch.ops.aten.index.Tensor,  # CUDA takes indices from the host
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}


class Pretended(Tensor):
    """A tensor that says it is on a GPU; `inner` is where its values are."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        made: Pretended = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=META,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)
    is_cpu = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:
        return f"Pretended({self.inner!r})"

    def tolist(self):
        return self.inner.tolist()

    def numpy(self, *, force=False):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, dtype=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __deepcopy__(self, memo):
        copied = Pretended(self.inner.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def wrap(x):
    if not isinstance(x, Tensor) or isinstance(x, Pretended):
        return x
    with torch.inference_mode(False):  # a view of a normal tensor is a normal one
        return Pretended(x)


def unwrap(x):
    if isinstance(x, Pretended):
        return x.inner
    return CPU if isinstance(x, torch.device) else x


def run(func, args, kwargs):
    """Compute an operation on the CPU, where a GPU would not refuse it; the result is where the GPU's would be."""
    leaves = tree_flatten((args, kwargs))[0]
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    pretended = [isinstance(x, Pretended) for x in tensors]
    strangers = [x for x in tensors if not isinstance(x, Pretended) and x.dim() > 0]
    if any(pretended) and strangers and func not in _MAY_MIX:
        raise RuntimeError(
            f"{func}: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu "
            f"(shapes {[tuple(x.shape) for x in tensors]})"
        )
    wanted = [x.type != "cpu" for x in leaves if isinstance(x, torch.device)]
    there = (wanted[0] if wanted else any(pretended)) and func is not _SCALAR
    if func is torch.ops.aten.copy_.default:
        there = isinstance(args[0], Pretended)
    PretendedCapture.check(func, tensors)
    if func is torch.ops.aten._to_copy.default and there != any(pretended):
        PretendedCapture.refuse(func)
    result = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
    if not there:
        return result
    return (
        return_and_correct_aliasing(func, args, kwargs, tree_map(wrap, result))
        if any(pretended)
        else tree_map(wrap, result)
    )


_SCALAR = torch.ops.aten._local_scalar_dense.default
_SYNCHRONISING = {_SCALAR, torch.ops.aten.nonzero.default, torch.ops.aten.masked_select.default}


class PretendedCapture:
    """Runs a function as it is captured and replayed on a GPU: whatever passes between host and device is refused.

    Attributes:
        made: How many functions were captured.
    """

    is_on = False
    made = 0

    def __init__(self, device: torch.device) -> None:
        assert device.type == "cuda"

    def __call__(self, run):
        PretendedCapture.made += 1
        self.replayed(run, lambda step: None)
        return lambda on_step: self.replayed(run, on_step)

    def replayed(self, run, on_step):
        def freely(step):
            PretendedCapture.is_on = False
            on_step(step)
            PretendedCapture.is_on = True

        PretendedCapture.is_on = True
        try:
            run(freely)
        finally:
            PretendedCapture.is_on = False

    @classmethod
    def check(cls, func, tensors) -> None:
        """Refuse an operation that a capture would."""
        there = [isinstance(x, Pretended) for x in tensors]
        mixed = any(there) and any(not isinstance(x, Pretended) and x.dim() > 0 for x in tensors)
        masked = "index" in str(func) and any(x.dtype == torch.bool for x in tensors[1:])
        if any(there) and (mixed or masked or func in _SYNCHRONISING):
            cls.refuse(func)

    @classmethod
    def refuse(cls, func) -> None:
        """Refuse what passes between host and device while something is captured."""
        if cls.is_on:
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def _is_cuda(x) -> bool:
    return (isinstance(x, torch.device) and x.type == "cuda") or (isinstance(x, str) and x.split(":")[0] == "cuda")


class _Calls(TorchFunctionMode):
    """Rewrites the devices of calls before PyTorch looks for a GPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (Tensor.__getitem__, Tensor.__setitem__):  # C++ would make a meta tensor of a list, without values
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            return func(args[0], tuple(torch.tensor(i) if isinstance(i, list) else i for i in index), *args[2:])
        if func is Tensor.new_tensor and isinstance(args[0], Pretended):
            PretendedCapture.refuse(func)
            return wrap(args[0].inner.new_tensor(*args[1:], **kwargs))
        if func in (Tensor.cuda, Tensor.pin_memory):
            return args[0].to(META) if func is Tensor.cuda else args[0]
        if _is_cuda(kwargs.get("device")) and not any(isinstance(x, Tensor) for x in args):
            if func in (torch.tensor, torch.as_tensor, torch.from_numpy):
                PretendedCapture.refuse(func)
            return wrap(func(*args, **kwargs | {"device": CPU}))  # a tensor is made
        if func is Tensor.to or "device" in kwargs:
            args = tuple(META if _is_cuda(x) else x for x in args)
            kwargs = {name: META if _is_cuda(x) else x for name, x in kwargs.items()}
        return func(*args, **kwargs)


class _Generator(torch.Generator):
    def __new__(cls, device="cpu"):
        return super().__new__(cls)


class _Event:
    def record(self) -> None: ...
    def synchronize(self) -> None: ...


@contextlib.contextmanager
def pretended_cuda(monkeypatch) -> Iterator[torch.device]:
    """Pretend a CUDA device without Triton, and give its name."""
    # Otherwise modules put the new values into their old parameters, which keep their Python class.
    monkeypatch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr("audiodiff.engine.graphs.CudaGraphCapture", PretendedCapture)
    monkeypatch.setattr(PretendedCapture, "made", 0)
    monkeypatch.setattr("audiodiff.engine.fused.has_triton", lambda: False)
    monkeypatch.setattr("audiodiff.diffusion.noise.has_triton", lambda: False)
    with _Operations(), _Calls():
        yield CUDA
