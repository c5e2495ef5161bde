"""The zoo: a spec lists models by name, the name says the part, and what is missing is built."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from neural_cleanse.attacks.make import Recipe, card_path
from neural_cleanse.attacks.train import Training, snapshots_of
from neural_cleanse.engines import Engine, InProcess, Processes
from neural_cleanse.errors import OutputError, SettingsError
from neural_cleanse.evaluation import zoo
from neural_cleanse.evaluation.cards import measured_cards, read_card, read_cards
from neural_cleanse.evaluation.zoo import (
    BuildJob,
    Built,
    build,
    missing,
    model_path,
    part_of,
    read_spec,
)

HERE = InProcess()
SHIPPED = Path(__file__).parents[2] / "benchmarks" / "zoo"
FAMILY = 'dataset = "digits"\narchitecture = "mnist_cnn_half"\nattack = "badnets"\n'


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., tuple[BuildJob, ...]]:
    """Reads a spec of the given families, each the text of a table."""

    def read(*families: str, data: Path = Path("data")) -> tuple[BuildJob, ...]:
        path = tmp_path / "spec.toml"
        path.write_text("".join(f"[[family]]\n{family}\n" for family in families))
        return read_spec(path, data)

    return read


def names(orders: tuple[BuildJob, ...]) -> list[str]:
    return [order.name for order in orders]


# --- specs ---


def test_lists_are_crossed(spec: Callable[..., tuple[BuildJob, ...]]) -> None:
    orders = spec(
        'dataset = ["mnist", "digits"]\narchitecture = "mnist_cnn"\nattack = ["badnets", "noise"]\n'
        "size = [4, 6]\nseed = [0, 1, 2]\nepochs = 3"
    )
    assert len(set(names(orders))) == len(orders) == 2 * 2 * 2 * 3
    assert {
        (order.recipe.dataset.name, order.recipe.attack, order.recipe.options["size"], order.recipe.seed)
        for order in orders
    } == {(d, a, z, s) for d in ("mnist", "digits") for a in ("badnets", "noise") for z in (4, 6) for s in (0, 1, 2)}
    assert {order.recipe.training for order in orders} == {Training(epochs=3)}
    assert all(order.recipe.half for order in orders)


def test_families_follow_one_another(spec: Callable[..., tuple[BuildJob, ...]]) -> None:
    assert names(spec(FAMILY + "seed = [1, 0]", FAMILY + "size = 6")) == [
        "digits-mnist_cnn_half-badnets-seed1",
        "digits-mnist_cnn_half-badnets-seed0",
        "digits-mnist_cnn_half-badnets-size6-seed0",
    ]


def test_a_recipe_is_what_the_family_says(spec: Callable[..., tuple[BuildJob, ...]], tmp_path: Path) -> None:
    every = FAMILY + 'target = 4\nsize = 5\nplace = "3,4"\ncolour = "1,1,0"\nrate = 0.2\nseed = 9\nepochs = 2\n'
    (order,) = spec(every + "batch_size = 32\nlearning_rate = 0.01")
    options = {"target": 4, "size": 5, "place": "3,4", "colour": (1.0, 1.0, 0.0), "rate": 0.2}
    assert order.recipe == Recipe(
        Path("data/digits"), "mnist_cnn_half", "badnets", options, Training(2, 32, 0.01), 9, True
    )
    (picture,) = spec(FAMILY.replace("badnets", "picture") + 'picture = "pictures/glasses.png"')
    assert picture.recipe.options == {"picture": tmp_path / "pictures" / "glasses.png"}
    assert picture.name == "digits-mnist_cnn_half-picture-pictureglasses-seed0"


def test_names_are_stable_and_hold_no_path(spec: Callable[..., tuple[BuildJob, ...]]) -> None:
    """Whatever the order of the keys; a model's part hangs on its name."""
    one = FAMILY + 'size = 5\nplace = "3,4"\ntarget = 2\ncolour = 0.6'
    other = 'colour = 0.6\ntarget = 2\nplace = "3,4"\nsize = 5\n' + FAMILY
    assert (
        names(spec(one))
        == names(spec(other))
        == ["digits-mnist_cnn_half-badnets-colour0.6-place3_4-size5-target2-seed0"]
    )
    assert names(spec(FAMILY, data=Path("/elsewhere"))) == ["digits-mnist_cnn_half-badnets-seed0"]


def test_models_listed_twice_are_refused(spec: Callable[..., tuple[BuildJob, ...]]) -> None:
    name = "digits-mnist_cnn_half-badnets-seed1"
    for families in ([FAMILY + "seed = [0, 1]", FAMILY + "seed = 1\nepochs = 3"], [FAMILY + "seed = [1, 1]"]):
        with pytest.raises(SettingsError, match=f"lists {name} twice"):
            spec(*families)


BAD_FAMILIES = {
    "no dataset": ('architecture = "mnist_cnn"\nattack = "none"', "has no dataset"),
    "no architecture": ('dataset = "d"\nattack = "none"', "has no architecture"),
    "no attack": ('dataset = "d"\narchitecture = "mnist_cnn"', "has no attack"),
    "unknown attack": (FAMILY.replace("badnets", "best"), "no attack 'best'"),
    "unknown network": (FAMILY.replace("mnist_cnn_half", "best"), "no architecture 'best'"),
    "unknown key": (FAMILY + "bogus = 1", "takes no bogus"),
    "option of another attack": (FAMILY + "share = 0.1", "takes no share"),
    "half of a recipe": (FAMILY + "half = true", "takes no half"),
    "seed of text": (FAMILY + 'seed = "x"', "seed = 'x' is not a whole number"),
    "seed of a number in text": (FAMILY + 'seed = "1"', "seed = '1' is not a whole number"),
    "seed with a fraction": (FAMILY + "seed = 1.5", "seed = 1.5 is not a whole number"),
    "seed of truth": (FAMILY + "seed = true", "seed = True is not a whole number"),
    "negative seed": (FAMILY + "seed = -1", "seed -1"),
    "one wrong seed of several": (FAMILY + "seed = [0, 1, false]", "seed = False is not a whole number"),
    "no seeds": (FAMILY + "seed = []", "seed is an empty list"),
    "lists in lists": (FAMILY + "size = [[4, 6]]", r"size = \[4, 6\] is not a whole number"),
    "size of text": (FAMILY + 'size = "big"', "size = 'big' is not a whole number"),
    "size of truth": (FAMILY + "size = false", "size = False is not a whole number"),
    "rate of text": (FAMILY + 'rate = "high"', "rate = 'high' is not a number"),
    "place of a number": (FAMILY + "place = 3", "place = 3 is not text"),
    "place of a date": (FAMILY + "place = 2024-01-01", "is not text"),
    "colour of text": (FAMILY + 'colour = "red"', "colour red is not a number or a list"),
    "colour of truth": (FAMILY + "colour = true", "colour = True"),
    "a table for an option": (FAMILY + "size = {a = 1}", "is not a whole number"),
    "no epochs": (FAMILY + "epochs = 0", "0 epochs"),
    "epochs of text": (FAMILY + 'epochs = "3"', "epochs = '3' is not a whole number"),
    "epochs with a fraction": (FAMILY + "epochs = 2.0", "epochs = 2.0 is not a whole number"),
    "epochs of truth": (FAMILY + "epochs = true", "epochs = True is not a whole number"),
    "batches of text": (FAMILY + 'batch_size = "all"', "batch_size = 'all' is not a whole number"),
    "rate of learning of text": (FAMILY + 'learning_rate = "a"', "learning_rate = 'a' is not a number"),
    "rate of learning nan": (FAMILY + "learning_rate = nan", "learning_rate between 0 and 1"),
}


@pytest.mark.parametrize("case", BAD_FAMILIES)
def test_a_family_that_makes_no_model_is_refused(spec: Callable[..., tuple[BuildJob, ...]], case: str) -> None:
    family, message = BAD_FAMILIES[case]
    with pytest.raises(SettingsError, match=message):
        spec(FAMILY + "seed = 99", family)


BAD_SPECS = {
    "no TOML": b"[[family]",
    "no text": b"\xff\xfe\x00",
    "empty": b"",
    "other tables": b"[other]\na = 1\n",
    "other keys beside": b'title = "x"\n[[family]]\ndataset = "d"\narchitecture = "mnist_cnn"\nattack = "none"\n',
    "one table": b'[family]\ndataset = "d"\narchitecture = "mnist_cnn"\nattack = "none"\n',
    "no families": b"family = []\n",
    "families of numbers": b"family = [1, 2]\n",
    "families of text": b'family = "all"\n',
}


@pytest.mark.parametrize("case", BAD_SPECS)
def test_a_file_that_is_no_spec_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_bytes(BAD_SPECS[case])
    with pytest.raises(SettingsError, match=r"spec\.toml"):
        read_spec(path, tmp_path)


def test_a_spec_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(SettingsError, match="cannot be read"):
            read_spec(path, tmp_path)


# --- parts ---


def test_a_name_s_part_never_changes() -> None:
    assert part_of("mnist-mnist_cnn-none-seed0") == "final"
    assert part_of("mnist-mnist_cnn-none-seed1") == "choosing"


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_specs_are_read(path: Path) -> None:
    orders = read_spec(path, Path("data"))
    assert len({order.name for order in orders}) == len(orders) > 1


def test_the_shipped_zoos_fall_into_two_parts_of_about_one_size() -> None:
    """A fair coin stays within 0.4 to 0.6 of 230 tosses in all but 3 of 1000 series."""
    orders = [order for path in SHIPPED.glob("*.toml") for order in read_spec(path, Path("data"))]
    final = sum(part_of(order.name) == "final" for order in orders)
    assert 0.4 < final / len(orders) < 0.6


def test_the_small_zoo_can_show_a_low_rate_of_false_alarms() -> None:
    orders = read_spec(SHIPPED / "small.toml", Path("data"))
    clean = [order.name for order in orders if order.recipe.attack == "none"]
    assert len(orders) >= 60
    assert len(clean) >= 30
    assert sum(part_of(name) == "final" for name in clean) >= 30


# --- building ---


@pytest.fixture
def orders(spec: Callable[..., tuple[BuildJob, ...]], data_root: Path) -> tuple[BuildJob, ...]:
    """A clean model and an infected one."""
    return spec(
        'dataset = "digits"\narchitecture = "mnist_cnn_half"\nattack = ["none", "badnets"]\nepochs = 1', data=data_root
    )


def done(orders: tuple[BuildJob, ...], output: Path, engine: Engine = HERE) -> dict[str, Built]:
    return {built.name: built for built in build(orders, output, engine)}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.safetensors")}


def test_what_is_missing_is_built_and_the_rest_stays(orders: tuple[BuildJob, ...], tmp_path: Path) -> None:
    first, second = orders
    output = tmp_path / "zoo"
    assert set(done((first,), output)) == {first.name}
    times = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert missing(orders, output) == (second,)
    built = done(orders, output)
    assert set(built) == {second.name}
    said = json.dumps(built[second.name].card)
    assert json.loads(said) == read_card(card_path(model_path(output, second.name)))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert missing(orders, output) == ()
    assert done(orders, output) == {}


def test_a_zoo_rebuilt_elsewhere_has_the_same_bytes(orders: tuple[BuildJob, ...], tmp_path: Path) -> None:
    """Here in this process, there by a worker and in another order."""
    done(orders, tmp_path / "here")
    done(orders[::-1], tmp_path / "there", Processes(1))
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert len(set(contents(tmp_path / "here").values())) == 2


def test_a_model_without_its_card_is_built_anew(orders: tuple[BuildJob, ...], tmp_path: Path) -> None:
    done(orders[:1], tmp_path)
    whole = contents(tmp_path)
    model = model_path(tmp_path, orders[0].name)
    model.write_bytes(b"of another build")
    card_path(model).unlink()
    assert missing(orders[:1], tmp_path) == orders[:1]
    done(orders[:1], tmp_path)
    assert contents(tmp_path) == whole


def test_a_model_that_fails_stops_no_other(
    orders: tuple[BuildJob, ...], spec: Callable[..., tuple[BuildJob, ...]], data_root: Path, tmp_path: Path
) -> None:
    failing = spec(
        FAMILY.replace("digits", "absent"),
        FAMILY + "size = 99",
        FAMILY + "rate = 2",
        FAMILY.replace("mnist_cnn_half", "gtsrb_cnn"),
        data=data_root,
    )
    built = done((*failing, *orders), tmp_path / "zoo")
    assert {name for name, one in built.items() if one.card is not None} == set(names(orders))
    errors = [built[order.name].error or "" for order in failing]
    for error, message in zip(
        errors, ("no data set", "does not fit", "share between 0 and 1", "channels"), strict=True
    ):
        assert message in error
    assert missing((*failing, *orders), tmp_path / "zoo") == failing
    assert not snapshots_of(model_path(tmp_path / "zoo", "*"))


def test_a_model_of_another_recipe_is_refused_before_any_is_built(
    spec: Callable[..., tuple[BuildJob, ...]], data_root: Path, tmp_path: Path
) -> None:
    output = tmp_path / "zoo"
    done(spec(FAMILY + "epochs = 1", data=data_root), output)
    before = contents(output)
    for family in (FAMILY + "epochs = 2\nseed = [0, 1]", FAMILY + "epochs = 1\nbatch_size = 32\nseed = [0, 1]"):
        with pytest.raises(OutputError, match=r"digits-mnist_cnn_half-badnets-seed0\.card\.json.*otherwise"):
            list(build(spec(family, data=data_root), output, HERE))
    assert contents(output) == before


# --- cards ---


def test_cards_are_read_from_everywhere_below(orders: tuple[BuildJob, ...], tmp_path: Path) -> None:
    done(orders[:1], tmp_path / "zoo" / "a")
    done(orders[1:], tmp_path / "zoo" / "b")
    assert [card["attack"] for card in measured_cards(tmp_path / "zoo")] == ["none", "badnets"]


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[1]", "{}", '{"attack": "badnets"}', '{"name": "a", "infected": true}']
)
def test_what_is_no_card_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.card.json").write_text(text)
    with pytest.raises(OutputError, match=r"m\.card\.json"):
        read_cards(tmp_path)
    (tmp_path / "m.jsonl").write_text(text.strip() + "\n")
    with pytest.raises(OutputError, match=r"m\.jsonl"):
        read_cards(tmp_path / "m.jsonl")


def test_a_directory_without_cards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"attack": "none"}))
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(OutputError, match="no model card"):
            read_cards(directory)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.jsonl")), ids=lambda path: path.stem)
def test_the_recorded_cards_of_a_zoo_are_those_of_its_spec(path: Path) -> None:
    spec = {order.name for order in read_spec(path.with_suffix(".toml"), Path("data"))}
    cards = {card.name: card.truth["name"] for card in read_cards(path)}
    assert cards and set(cards) <= spec
    assert len(measured_cards(path)) == len(cards)


def test_the_demo_s_cards_are_cards(demo_files: Path) -> None:
    assert {card["infected"] for card in measured_cards(demo_files)} == {True, False}


def test_the_part_is_a_part() -> None:
    assert {part_of(str(number)) for number in range(20)} == set(zoo.PARTS)
