"""Disarm what a scan found: an input filter, pruned neurons, an unlearned trigger (Wang et al. 2019, section VI)."""

from typing import TYPE_CHECKING

from neural_cleanse.lazy import lookup

if TYPE_CHECKING:
    from neural_cleanse.mitigation.base import Backdoor, Mitigated, Mitigation, RepairLimits, known_backdoors
    from neural_cleanse.mitigation.pruning import Pruning
    from neural_cleanse.mitigation.unlearning import Unlearning

__all__ = ["Backdoor", "Mitigated", "Mitigation", "Pruning", "RepairLimits", "Unlearning", "known_backdoors"]
__getattr__ = lookup(
    __name__,
    {
        "Backdoor": "mitigation.base",
        "Mitigated": "mitigation.base",
        "Mitigation": "mitigation.base",
        "Pruning": "mitigation.pruning",
        "RepairLimits": "mitigation.base",
        "Unlearning": "mitigation.unlearning",
        "known_backdoors": "mitigation.base",
    },
)
