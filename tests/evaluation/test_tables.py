"""The table of a zoo: medians, the lowest success, and the drop against the clean counterparts."""

from typing import Any

from neural_cleanse.evaluation.tables import COLUMNS, kind, zoo_table


def card(attack: str = "badnets", accuracy: float = 0.9, *rates: float, **other: Any) -> dict[str, Any]:
    made = {
        "dataset": "mnist",
        "architecture": "mnist_cnn",
        "attack": attack,
        "options": {},
        "infected": attack != "none",
        "weak": any(rate < 0.95 for rate in rates),
        "clean_accuracy": accuracy,
        "poisons": [{"asr": rate} for rate in rates],
    }
    return made | other


def rows(*cards: dict[str, Any]) -> list[list[str]]:
    return [list(row) for row in zoo_table(cards).rows]


def test_every_row_has_a_cell_for_every_column() -> None:
    table = zoo_table([card("none", 0.99), card("badnets", 0.9, 1.0)])
    assert {len(row) for row in table.rows} == {len(COLUMNS)}
    assert table.markdown().splitlines()[:2] == [
        "| data set | network | attack | models | weak | clean accuracy, % | drop, points | attack success, % |",
        "| --- | --- | --- | --: | --: | --: | --: | --: |",
    ]


def test_figures_are_medians_and_the_drop_is_against_the_mean_of_the_clean_counterparts() -> None:
    cards = [
        card("none", 0.99),
        card("none", 0.97),
        card("badnets", 0.96, 1.0),
        card("badnets", 0.95, 0.98),
        card("badnets", 0.91, 0.90),
    ]
    assert rows(*cards) == [
        ["mnist", "mnist_cnn", "badnets", "3", "1", "95.00", "3.00", "98.00 (90.00)"],
        ["mnist", "mnist_cnn", "none", "2", "", "98.00", "", ""],
    ]


def test_the_order_of_cards_changes_nothing() -> None:
    cards = [card("none", 0.99), card("none", 0.97), card("badnets", 0.96, 1.0), card("noise", 0.95, 0.98)]
    assert rows(*cards) == rows(*cards[::-1])
    assert [row[2] for row in rows(*cards)] == ["badnets", "noise", "none"]


def test_without_clean_counterparts_nothing_is_said_of_the_drop() -> None:
    """Counterparts are of the same data set and the same network."""
    strangers = [card("none", 0.99, dataset="gtsrb"), card("none", 0.99, architecture="mnist_cnn_half")]
    (row,) = (row for row in rows(card("badnets", 0.96, 1.0), *strangers) if row[2] == "badnets")
    assert row[5:7] == ["96.00", ""]


def test_an_attack_that_costs_nothing_has_a_negative_drop() -> None:
    assert rows(card("none", 0.96), card("badnets", 0.97, 1.0))[0][6] == "-1.00"


def test_a_model_of_several_triggers_succeeds_as_its_worst_does() -> None:
    (row,) = rows(card("many-labels", 0.9, 1.0, 0.5, 0.99))
    assert (row[4], row[7]) == ("1", "50.00 (50.00)")


def test_options_that_change_the_attack_make_rows_of_their_own_and_places_do_not() -> None:
    cards = [
        card("badnets", 0.9, 1.0, options={"size": 4, "target": 1}),
        card("badnets", 0.9, 1.0, options={"size": 4, "target": 2, "place": "top-left"}),
        card("badnets", 0.9, 1.0, options={"size": 4, "colour": [0.6, 0.0, 0.0]}),
        card("badnets", 0.9, 1.0, options={"size": 8}),
        card("badnets", 0.9, 1.0),
    ]
    assert [(row[2], row[3]) for row in rows(*cards)] == [
        ("badnets", "1"),
        ("badnets, size 4", "2"),
        ("badnets, size 4, colour 0.6 0.0 0.0", "1"),
        ("badnets, size 8", "1"),
    ]
    assert kind(card("trojan-square", options={"training_data": "reversed", "area": 0.1})) == (
        "trojan-square, area 0.1, training data reversed"
    )


def test_no_cards_make_no_rows() -> None:
    assert rows() == []
