"""Architectures that everybody uses, under the tensor names that torchvision and timm give them; no code of theirs."""
