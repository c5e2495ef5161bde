"""Scan a model from Python: the demo's infected digit classifier.

python examples/scan_in_python.py
"""

from importlib.resources import as_file, files

import neural_cleanse as nc


def main() -> None:
    with as_file(files("neural_cleanse.demo")) as demo:
        model = nc.load(demo / "infected.safetensors")
        images = nc.load_data(demo / "digits.npz")
    result = nc.scan(model, images, nc.ScanSettings(restarts=1))
    print(result.verdict.value, "-", result.reason)
    for label in result.flagged:
        mask = result.triggers[nc.LabelPair(label)]["mask"][0, 0]
        rows, columns = (mask > 0.5).nonzero(as_tuple=True)
        print(f"label {label}: rows {rows.min()}-{rows.max()}, columns {columns.min()}-{columns.max()}")


if __name__ == "__main__":
    main()
