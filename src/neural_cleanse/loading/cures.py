"""What to do about a file that cannot be used: the cures that several readers name."""

AGAIN = "Copy or download it again; if it is the same then, ask for another export."
AGAIN_DIRECTORY = (
    "Copy or download the whole directory again, or write it with save_pretrained(..., safe_serialization=True)."
)
NOT_FINITE = "Ask for weights from before the training failed."
OTHER_WEIGHTS = "Save its state_dict (torch.save(model.state_dict(), path)), or export the network as ONNX or .pt2."
OTHER_THAN_ONNX = "Export the network as .pt2 (torch.export), or give its weights with --architecture."
OTHER_THAN_EXPORTED = "Export the network as ONNX, or give its weights with --architecture."
OTHER_DIRECTORY = "Export the network to ONNX or .pt2, and scan that."
OTHER_KERAS = "Save the model with Keras 3 from its own layers, or export it as ONNX."
ITS_ARCHITECTURE = "Give with --architecture the network that the weights were saved from."

PICTURES = (
    "Give a folder, zip or tar of images, or a parquet, Arrow, .npz, .pt, CSV, IDX, CIFAR, HDF5 or MATLAB file of them."
)
PICTURES_AGAIN = f"Copy or download it again. {PICTURES}"
AS_NPZ = "Save the arrays with np.savez(file, images=..., labels=...)."
RIGHTS = "Check that you may read it, and that its disk is there."
