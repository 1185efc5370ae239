"""Models as graphs that run without this package: ONNX files, and packages of `torch.export`."""

from audiodiff.interop.export.files import Exported, check_packages, export_graphs

__all__ = ["Exported", "check_packages", "export_graphs"]
