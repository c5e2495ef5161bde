"""A repair in words and tables, for terminal and page."""

from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.report.table import Table
from neural_cleanse.report.text import label_title
from neural_cleanse.results.repair import RepairResult, RepairStatus, TriggerChange

HEADLINE = {
    RepairStatus.REPAIRED: "Repaired",
    RepairStatus.FAILED: "Not repaired",
    RepairStatus.NOTHING_TO_REPAIR: "Nothing to repair",
}
CLASSES_SHOWN = 10  # those that lost most
TRIGGERS = "How often each trigger works, on images that decided nothing."
CLASSES = "Clean accuracy of the classes that changed most, on the same images."
TRIES = "Every try, on images that decide and are not learned from: a learning rate, or the share of neurons pruned."
CAUTION = (
    "A recovered trigger is the smallest patch that works, not a copy of the attacker's. That it no longer works does "
    "not prove that the attacker's own fails; --verify-trigger measures that one, if you have it."
)


def caution(result: RepairResult) -> str:
    """What a repair does not prove; nothing where none was made."""
    return "" if result.status is RepairStatus.NOTHING_TO_REPAIR else CAUTION


def sentence(result: RepairResult) -> str:
    """Why it ended as it did."""
    return result.reason[0].upper() + result.reason[1:] + "."


def accuracy_sentence(result: RepairResult) -> str:
    """Clean accuracy before and after, and on how many images."""
    before, after = result.accuracy
    return (
        f"Clean accuracy {before:.1%} before, {after:.1%} after ({100 * (after - before):+.2f} points), on "
        f"{result.num_images['report']} images that were neither learned from nor decided anything."
    )


def trigger_table(result: RepairResult) -> Table:
    """Every trigger's success before and after, the latter with its interval of Clopper and Pearson."""
    rows = [_trigger_row(change) for change in (*result.triggers, *result.verified)]
    columns = ("label", "trigger", "px", "success before", "after (95 % interval)")
    return Table("", columns, rows, frozenset({"px"}), TRIGGERS)


def _trigger_row(change: TriggerChange) -> tuple[str, ...]:
    which = "given, the attacker's own" if change.found_in == 0 else f"recovered, scan {change.found_in}"
    source = "" if change.source is None else f" from {change.source}"
    rates = (
        ("no images", "no images")
        if not change.trials
        else (f"{change.hits_before / change.trials:.1%}", _after(change))
    )
    return (label_title(change.target, change.name) + source, which, f"{change.size:.1f}", *rates)


def _after(change: TriggerChange) -> str:
    """The success after, with what so many images can tell of it."""
    low, high = clopper_pearson(change.hits_after, change.trials)
    share = f"{change.hits_after / change.trials:.1%}"
    return f"{share} ({low:.1%} to {high:.1%}, {change.hits_after} of {change.trials})"


def class_table(result: RepairResult) -> Table:
    """Accuracy of the classes that lost most."""
    worst = sorted(result.classes, key=lambda change: (change.right_after - change.right_before) / change.trials)
    rows = [
        (
            label_title(change.label, change.name),
            f"{change.right_before / change.trials:.1%}",
            f"{change.right_after / change.trials:.1%}",
            str(change.trials),
        )
        for change in worst[:CLASSES_SHOWN]
    ]
    return Table("", ("class", "accuracy before", "after", "images"), rows, frozenset({"images"}), CLASSES)


def try_table(result: RepairResult) -> Table:
    """Every try of every round, on the images that decide."""
    rows = [
        (str(done.number), point.method, f"{point.amount:.3g}", f"{point.accuracy:.1%}", f"{point.worst_asr:.1%}")
        for done in result.rounds
        for point in done.trace
    ]
    return Table("", ("round", "method", "rate or share", "clean accuracy", "highest success"), rows, caption=TRIES)
