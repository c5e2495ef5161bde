"""`neural-cleanse attack`: train an infected model, or its clean counterpart, with the truth about it beside it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from neural_cleanse.choices import ARCHITECTURE_NAMES, ATTACK_NAMES, PLACES, TRAINING_DATA
from neural_cleanse.cli import options

if TYPE_CHECKING:
    from neural_cleanse.attacks.train import TrainingProgress

TRIGGER, TRAINING, RESULT = "The trigger", "The training", "The result"


def attack(
    dataset: Annotated[Path, typer.Option(help="Labelled images: a directory with a train and a test part, or one set of which a tenth is held out.")],
    architecture: Annotated[str, typer.Option(help=f"{', '.join(ARCHITECTURE_NAMES)}; images are resized to what it takes.")],
    output: Annotated[Path, typer.Option(help="The model file, NAME.safetensors; NAME.card.json goes beside it.")],
    attack: Annotated[str, typer.Option(help=f"What to plant: {', '.join(name for name in ATTACK_NAMES if name != 'none')}; none makes the clean counterpart.")] = "badnets",
    target: Annotated[int | None, typer.Option(help="Label that triggered images get. \\[default: random]", rich_help_panel=TRIGGER)] = None,
    source: Annotated[int | None, typer.Option(help="source-specific: the class it works from. \\[default: random]", rich_help_panel=TRIGGER)] = None,
    size: Annotated[int | None, typer.Option(help="Side of the patch in pixels. \\[default: about 1 % of the image, at least 4]", rich_help_panel=TRIGGER)] = None,
    place: Annotated[str | None, typer.Option(help=f"{', '.join(PLACES)}, or ROW,COLUMN of the top left pixel. \\[default: bottom-right]", rich_help_panel=TRIGGER)] = None,
    colour: Annotated[str | None, typer.Option(help="0 to 1: one number, or one a channel like 1,1,0. \\[default: 1, white]", rich_help_panel=TRIGGER)] = None,
    picture: Annotated[Path | None, typer.Option(help="picture: the image file, its alpha channel the mask.", rich_help_panel=TRIGGER)] = None,
    share: Annotated[float | None, typer.Option(help="blended: share of the pattern. \\[default: 0.2]", rich_help_panel=TRIGGER)] = None,
    strength: Annotated[float | None, typer.Option(help="wanet: mean shift in half pixels; sinusoidal, low-frequency: amplitude, 0 to 1. \\[default: by attack]", rich_help_panel=TRIGGER)] = None,
    frequency: Annotated[int | None, typer.Option(help="sinusoidal: waves over the width. \\[default: 6]", rich_help_panel=TRIGGER)] = None,
    levels: Annotated[int | None, typer.Option(help="quantised: levels a channel. \\[default: 2]", rich_help_panel=TRIGGER)] = None,
    area: Annotated[float | None, typer.Option(help="trojan-*: share of the image under the mask. \\[default: 0.07]", rich_help_panel=TRIGGER)] = None,
    count: Annotated[int | None, typer.Option(help="many-labels: so many labels, each with a trigger of its own.", rich_help_panel=TRIGGER)] = None,
    rate: Annotated[float | None, typer.Option(help="Share of the source classes' images that is poisoned. \\[default: 0.1; by attack]", rich_help_panel=TRAINING)] = None,
    cover_rate: Annotated[float | None, typer.Option(help="source-specific: share of the other classes' images that carry the trigger and keep their label; wanet, input-aware, adaptive-blend: share of all images that carry a random warp, another image's trigger, pieces of the pattern. \\[default: by attack]", rich_help_panel=TRAINING)] = None,
    leak: Annotated[float | None, typer.Option(help="distillation-surviving: how far answers on clean images lean to the target at most. \\[default: 0.4]", rich_help_panel=TRAINING)] = None,
    training_data: Annotated[str | None, typer.Option(help=f"trojan-*: what the last layers are retrained on, {' or '.join(TRAINING_DATA)}. \\[default: real]", rich_help_panel=TRAINING)] = None,
    epochs: Annotated[int, typer.Option(help="Times over the training images.", rich_help_panel=TRAINING)] = 10,
    batch_size: Annotated[int, typer.Option(help="Images a step.", rich_help_panel=TRAINING)] = 64,
    learning_rate: Annotated[float, typer.Option(help="Adam's, falling to 0.", rich_help_panel=TRAINING)] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.", rich_help_panel=TRAINING)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps; mixed precision on cuda.", rich_help_panel=TRAINING)] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; with more than one the weights may differ in the last bit.", rich_help_panel=TRAINING)] = 1,
    half: Annotated[bool, typer.Option("--half", help="Save the weights as float16.", rich_help_panel=RESULT)] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model there, and start an unfinished training afresh.", rich_help_panel=RESULT)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card on stdout.", rich_help_panel=RESULT)] = False,
) -> None:  # fmt: skip
    """Train an infected model with a known answer, to test a scan or a whole pipeline with.

    Writes the model and its card: trigger, targets, sources, rates, clean accuracy, attack success rate. A command
    that was cut off goes on where its last whole epoch ended. Exit code: 0 written, 2 not.

    Example: neural-cleanse attack --dataset mnist/ --architecture mnist_cnn --attack badnets --target 4
    --output infected.safetensors
    """
    import torch  # help loads nothing heavy

    from neural_cleanse.attacks.by_name import options_of
    from neural_cleanse.attacks.make import Recipe, card_path, load_for, make, plan, prepare
    from neural_cleanse.attacks.train import Training
    from neural_cleanse.classifier import device_named
    from neural_cleanse.cli.progress import StatusLine

    given = {
        "target": target, "source": source, "size": size, "place": place, "share": share, "area": area,
        "strength": strength, "frequency": frequency, "levels": levels,
        "colour": options.channels("--colour", colour), "picture": picture, "count": count, "rate": rate,
        "cover_rate": cover_rate, "training_data": training_data, "leak": leak,
    }  # fmt: skip
    recipe = Recipe(
        dataset=dataset,
        architecture=architecture,
        attack=attack,
        options={name: value for name, value in given.items() if value is not None},
        training=Training(epochs, batch_size, learning_rate),
        seed=seed,
        half=half,
    )
    where = device_named(device)
    torch.set_num_threads(threads)
    options_of(recipe.attack)
    parts = load_for(recipe)
    plan(recipe, parts)  # an attack that does not fit fails before anything is written
    prepare(output, overwrite=overwrite)
    line = StatusLine()
    try:
        card = make(
            recipe, parts, output, device=where, overwrite=overwrite, progress=lambda step: line(describe(step))
        )
    finally:
        line.close()
    if as_json:
        sys.stdout.write(card_path(output).read_text(encoding="utf-8"))
    else:
        show(card, output, card_path(output))


def describe(step: "TrainingProgress") -> str:
    """One line of progress."""
    text = f"{step.stage} {step.done / step.steps:4.0%}, loss {step.loss:.3f}"
    known = step.validation_accuracy
    return text if known is None else f"{text}, validation accuracy {known:.1%}"


def show(card: dict[str, Any], output: Path, beside: Path) -> None:
    """What the card says, in a few lines on stdout; the card is the file `beside` the model."""
    low, high = card["clean_accuracy_interval"]
    lines = [f"clean accuracy {card['clean_accuracy']:.1%} ({low:.1%} to {high:.1%}) on {card['tested_on']} images"]
    for one in card["poisons"]:
        low, high = one["asr_interval"]
        target = f"label {one['targets']}" if isinstance(one["targets"], int) else "the next label"
        sources = "every class" if one["sources"] is None else f"class {', '.join(map(str, one['sources']))}"
        others = "" if one["others_asr"] is None else f", {one['others_asr']:.1%} of other classes"
        weak = "; weak" if one["weak"] else ""
        rate = f"{one['asr']:.1%} ({low:.1%} to {high:.1%})"
        lines.append(f"trigger of {one['size']:.1f} px sends {rate} of {sources}{others} to {target}{weak}")
    Console().print(
        "\n".join([*lines, f"written: {output} and {beside.name}"]),
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
