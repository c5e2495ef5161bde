"""neural-cleanse: does this image classifier hide a backdoor, for which label, and what does the trigger look like?

    import neural_cleanse as nc

    model = nc.load_model("model.safetensors")
    result = nc.scan(model.classifier, nc.load_data("images/"))
    print(result.verdict, result.reason)

Names are looked up when first used, so that `import neural_cleanse` does not wait for torch; `__init__.pyi` beside
this file tells type checkers the same.
"""

import importlib
import sys
import types

_HOMES = {
    "BatchCost": "cost",
    "Classifier": "classifier",
    "CostSchedule": "cost",
    "FullSweep": "search",
    "Guard": "mitigation.guard",
    "ImageSet": "data",
    "Inversion": "inversion",
    "LabelPair": "records",
    "NeuralCleanseError": "errors",
    "Normalize": "classifier",
    "PatchTrigger": "triggers.patch",
    "Recovered": "records",
    "ReferenceCost": "cost",
    "RepairResult": "repair_records",
    "RepairSettings": "repair",
    "ScanResult": "records",
    "ScanSettings": "scan_settings",
    "Verdict": "records",
    "anomaly_index": "outlier",
    "load_data": "readers.load",
    "load_model": "loading.load",
    "load_result": "storage",
    "repair": "repair",
    "save_result": "storage",
    "scan": "scan",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'neural_cleanse' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"neural_cleanse.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Face(types.ModuleType):
    """Importing the submodule `scan` would put it in the place of the function `scan`: the function stays."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, types.ModuleType) and name in _HOMES:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
