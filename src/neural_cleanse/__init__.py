"""neural-cleanse: does this image classifier hide a backdoor, for which label, and what does the trigger look like?

    import neural_cleanse as nc

    model = nc.load_model("model.safetensors")
    result = nc.scan(model.classifier, nc.load_data("images/"))
    print(result.verdict, result.reason)

Names are looked up when first used, so that `import neural_cleanse` does not wait for torch; `__init__.pyi` beside
this file tells type checkers the same.
"""

import importlib

_HOMES = {
    "BatchCost": "inversion.cost",
    "Classifier": "classifier",
    "CostSchedule": "inversion.cost",
    "FullSweep": "detection.plans",
    "Guard": "mitigation.guard",
    "ImageSet": "images",
    "Inversion": "inversion.inversion",
    "LabelPair": "results.records",
    "NeuralCleanseError": "errors",
    "Normalize": "classifier",
    "PatchTrigger": "triggers.patch",
    "Recovered": "results.records",
    "ReferenceCost": "inversion.cost",
    "RepairResult": "results.repair",
    "RepairSettings": "mitigation.repair",
    "ScanResult": "results.records",
    "ScanSettings": "detection.settings",
    "Verdict": "results.records",
    "anomaly_index": "detection.statistics.outlier",
    "load_data": "loading.images.load",
    "load_model": "loading.load",
    "load_result": "results.storage",
    "repair": "mitigation.repair",
    "save_result": "results.storage",
    "scan": "detection.scan",
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
