"""Names of a package that are looked up when first used, so that importing it does not wait for torch."""

import importlib
import sys
from collections.abc import Callable, Mapping


def lookup(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """A package's `__getattr__`: `homes` says in which module under neural_cleanse each name is.

    A home that ends in a dot is the module itself.
    """

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"neural_cleanse.{homes[name].removesuffix('.')}")
        value: object = module if homes[name].endswith(".") else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return find
