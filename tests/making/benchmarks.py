"""Programs of benchmarks/ as modules, for what a test asks of them in few cases."""

import importlib.util
import sys
from types import ModuleType

from making.project import PROJECT


def benchmark(name: str) -> ModuleType:
    if f"benchmarks.{name}" not in sys.modules:
        found = importlib.util.spec_from_file_location(f"benchmarks.{name}", PROJECT / "benchmarks" / f"{name}.py")
        assert found and found.loader
        module = importlib.util.module_from_spec(found)
        sys.modules[f"benchmarks.{name}"] = module  # where dataclasses look for it
        found.loader.exec_module(module)
    return sys.modules[f"benchmarks.{name}"]
