"""The terms of a report, explained on its own page, which links nothing outside; docs/glossary.md has the same."""

TERMS = {
    "alpha": "The accepted chance that a clean model is flagged (--alpha, 0.01 by default).",
    "anomaly index": (
        "(median - size) / (1.4826 MAD). The paper flags a label above 2. Printed, but it does not decide."
    ),
    "backdoor": "Behaviour planted by an attacker: images with a trigger are classified as the target.",
    "baseline": (
        "The scan of a known-clean model with the same classes; sizes are divided by it, label by label (--baseline)."
    ),
    "clean accuracy": "Share of images without a trigger that the model classifies correctly.",
    "detection limit": (
        "Size in pixels below which one more label would have been flagged. It is of recovered triggers, which are "
        "mostly smaller than the planted ones. Larger triggers are not excluded."
    ),
    "mask, pattern": "Where the trigger acts (0 to 1 a pixel), and which colours it paints there.",
    "p-value, p": (
        "Chance that a clean model has a label at least this small, if log sizes are normal. Small is suspicious."
    ),
    "screening": "The first 84 steps for all labels. Clear cases end there, all others get all steps.",
    "size, px": (
        "Sum of the mask's values, in pixels: 43 px is an area of 43 fully changed pixels. In feature space: the "
        "length of the shift."
    ),
    "student": (
        "A network of the same architecture with fresh weights that learnt the model's answers on clean images. Its "
        "trigger sizes show what belongs to the classes."
    ),
    "success": ("Attack success rate: share of held-out images of other classes that the trigger sends to the label."),
    "trigger": (
        "What activates a backdoor. In the search: a patch (mask and pattern), or a shift of activations (feature "
        "space)."
    ),
}


def anchor(term: str) -> str:
    """Where on the page a term is explained."""
    return "term-" + "".join(char if char.isalnum() else "-" for char in term)
