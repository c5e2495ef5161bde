"""neural-cleanse: does this image classifier hide a backdoor, for which label, and what does the trigger look like?

    import neural_cleanse as nc

    result = nc.scan(model, loader, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
    print(result)
    result.save("out/scan")

Names are looked up when first used, so that `import neural_cleanse` does not wait for torch; `__init__.pyi` beside
this file tells type checkers the same.
"""

from neural_cleanse.lazy import lookup

_HOMES = {
    "BatchCost": "inversion.cost",
    "Classifier": "classifier",
    "CostSchedule": "inversion.cost",
    "Guard": "api.guard",
    "ImageSet": "images",
    "Inversion": "inversion.inversion",
    "LabelPair": "results.records",
    "NeuralCleanseError": "errors",
    "Normalize": "classifier",
    "PatchTrigger": "triggers.patch",
    "ReferenceCost": "inversion.cost",
    "RepairSettings": "mitigation.repair",
    "ScanResult": "api.results",
    "ScanSettings": "detection.settings",
    "Verdict": "results.records",
    "anomaly_index": "detection.statistics.outlier",
    "attacks": "attacks.",
    "fit_guard": "api.guard",
    "load": "api.models",
    "load_data": "api.data",
    "mitigation": "mitigation.",
    "plans": "detection.plans.",
    "repair": "api.repair",
    "scan": "api.scan",
}
__all__ = sorted(_HOMES)
__getattr__ = lookup(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
