"""Whether an error says that memory ran out."""

import torch


def out_of_memory(error: Exception) -> bool:
    """Whether the error says that memory ran out: torch has a type for it on a GPU and only words on a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "out of memory", "not enough memory")
    )
