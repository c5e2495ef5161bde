"""torch.export archives, read as JSON and raw tensors."""
