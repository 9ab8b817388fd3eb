"""The digest of a step's code: its module and all of ours that it imports, transitively."""

import ast
import hashlib
import importlib.util
import platform
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

OURS = ("hardening", "attacks", "defenses", "tasks", "flows")

LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "onnx",
    "onnxscript",
    "pillow",
    "scikit-learn",
    "scipy",
)
"""Libraries whose release may change a number. The runtime is named by its module, see below."""


@cache
def code_digest(module: str) -> str:
    """sha256 over the sources of `module` and of what it imports from our packages.

    Whatever an import statement anywhere in a file can reach counts, so a change is a miss even
    where it does not matter; the opposite, a stale hit, cannot happen.
    """
    digest = hashlib.sha256()
    for name in sorted(_reachable(module)):
        digest.update(name.encode() + b"\0" + _source(name) + b"\0")
    for path in sorted({file for name in _reachable(module) for file in _beside(name)}):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """The releases of the libraries that compute."""
    import onnxruntime  # noqa: PLC0415  two distributions can provide it; the module knows

    return {name: version(name) for name in LIBRARIES} | {"onnxruntime": onnxruntime.__version__}


def _reachable(module: str) -> set[str]:
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or _path(name) is None:
            continue
        seen.add(name)
        waiting += _imports(name)
        waiting += [name.rpartition(".")[0]] if "." in name else []
    return seen


@cache
def _imports(module: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0] in OURS]


def _beside(module: str) -> list[Path]:
    """Files that a package's code may read: templates, style sheets."""
    path = _path(module)
    if path is None or path.name != "__init__.py":
        return []
    return [p for p in path.parent.iterdir() if p.suffix in {".j2", ".css"}]


@cache
def processor() -> str:
    """What computes: the device, and what of the processor changes int8 results and speed."""
    import torch  # noqa: PLC0415

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
    name = re.search(r"model name\s*: (.*)", text)
    flags = sorted({"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"} & set(text.split()))
    return f"{device}, {name.group(1) if name else platform.machine()} [{' '.join(flags)}]"


def _source(module: str) -> bytes:
    path = _path(module)
    return path.read_bytes() if path else b""


@cache
def _path(module: str) -> Path | None:
    """The file of one of our modules; None for a name in a module that is not one itself."""
    root = importlib.util.find_spec(module.partition(".")[0])
    if root is None or root.origin is None:
        return None
    base = Path(root.origin).parent.joinpath(*module.split(".")[1:])
    for candidate in (base / "__init__.py", base.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None
