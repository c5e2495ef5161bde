"""The schedules as state machines: ours by its laws, the authors' against their loop written out."""

import math

import pytest
import torch

from neural_cleanse.inversion.cost import BatchCost, ReferenceCost

CPU = torch.device("cpu")


def authors_loop(asrs: list[float], sizes: list[float]) -> list[tuple[float, bool]]:
    """One label by the loop of the authors' visualizer.py, as the method sheet writes it: (cost, stopped) a step."""
    cost, best, stop_best = 0.0, math.inf, math.inf
    set_count = up = down = stop = 0
    went_up = went_down = False
    trace = []
    for asr, size in zip(asrs, sizes, strict=True):
        if asr >= 0.99 and size < best:
            best = size
        if best < math.inf:
            stop = stop + 1 if best >= 1.0 * stop_best else 0
        stop_best = min(best, stop_best)
        if went_down and went_up and stop >= 25:
            trace.append((cost, True))
            break
        if cost == 0 and asr >= 0.99:
            set_count += 1
            if set_count >= 5:
                cost = 1e-3
                up = down = 0
                went_up = went_down = False
        else:
            set_count = 0
        if asr >= 0.99:
            up, down = up + 1, 0
        else:
            up, down = 0, down + 1
        if up >= 5:
            up, cost, went_up = 0, cost * 2, True
        elif down >= 5:
            down, cost, went_down = 0, cost / 2**1.5, True
        trace.append((cost, False))
    return trace


@pytest.mark.parametrize("seed", range(20))
def test_reference_follows_the_authors_loop_step_by_step(seed: int) -> None:
    """Constants of method sheet 2.1, order of 2.3: early stop before lambda, on random runs of good and bad steps."""
    generator = torch.Generator().manual_seed(seed)
    steps = 200
    chance = (torch.rand(steps // 10, generator=generator) * 1.2).repeat_interleave(10)
    good = torch.rand(steps, generator=generator) < chance
    asrs = torch.where(good, 0.995, 0.9).tolist()
    sizes = (200 - torch.rand(steps, generator=generator).cumsum(0).minimum(torch.tensor(60.0)) * 2).tolist()
    expected = authors_loop(asrs, sizes)

    schedule = ReferenceCost()
    state, best = schedule.start(1, 1024, CPU), math.inf
    for step, (cost, stopped) in enumerate(expected):
        if asrs[step] >= 0.99:
            best = min(best, sizes[step])
        state = schedule.step(state, torch.tensor([asrs[step]]), torch.tensor([best]))
        assert state.done.item() is stopped, step
        assert state.cost.item() == pytest.approx(cost, rel=1e-12), step


def test_reference_stops_in_at_least_one_of_those_runs() -> None:
    """So that the test above covers the early stop: 5 bad steps, then good ones that never get smaller."""
    asrs = [0.995] * 5 + [0.995] * 5 + [0.9] * 5 + [0.995] * 40
    expected = authors_loop(asrs, [100.0] * len(asrs))
    assert expected[-1][1]
    schedule = ReferenceCost()
    state = schedule.start(1, 1024, CPU)
    for asr in asrs[: len(expected)]:
        state = schedule.step(state, torch.tensor([asr]), torch.tensor([100.0]))
    assert state.done.item()


def test_reference_constants() -> None:
    """Method sheet, table 2.1 (GTSRB script)."""
    schedule = ReferenceCost()
    assert (schedule.init_cost, schedule.asr_target, schedule.patience) == (1e-3, 0.99, 5)
    assert schedule.up == 2 and schedule.down == pytest.approx(2.828427, rel=1e-6)
    assert (schedule.stop_threshold, schedule.stop_patience) == (1.0, 25)
    assert schedule.start(2, 1024, CPU).cost.tolist() == [0, 0]


def test_batch_cost_waits_then_follows() -> None:
    """Nothing moves before the ASR was reached; then up while it holds, down while it does not."""
    schedule = BatchCost()
    state = schedule.start(1, 100, CPU)
    first = state.cost.item()
    assert first == pytest.approx(schedule.start_cost / 100)
    for _ in range(5):
        state = schedule.step(state, torch.tensor([0.0]), torch.tensor([math.inf]))
    assert state.cost.item() == first
    while not state.reached.item():
        state = schedule.step(state, torch.tensor([1.0]), torch.tensor([math.inf]))
    risen = schedule.step(schedule.step(state, torch.ones(1), torch.ones(1)), torch.ones(1), torch.ones(1))
    for _ in range(60):
        risen = schedule.step(risen, torch.ones(1), torch.ones(1))
    assert risen.cost.item() > state.cost.item()
    fallen = schedule.step(risen, torch.zeros(1), torch.ones(1))
    assert fallen.cost.item() == pytest.approx(risen.cost.item() / schedule.down)


@pytest.mark.parametrize("schedule", [ReferenceCost(), BatchCost()])
def test_no_row_sees_another(schedule: ReferenceCost | BatchCost) -> None:
    """Three rows stepped together equal three rows stepped alone."""
    generator = torch.Generator().manual_seed(1)
    asrs = (torch.rand(50, 3, generator=generator) < 0.8).float()
    together = schedule.start(3, 64, CPU)
    alone = [schedule.start(1, 64, CPU) for _ in range(3)]
    size = torch.tensor([5.0, 6.0, 7.0])
    for asr in asrs:
        together = schedule.step(together, asr, size)
        alone = [schedule.step(alone[i], asr[i : i + 1], size[i : i + 1]) for i in range(3)]
    assert torch.equal(together.cost, torch.cat([state.cost for state in alone]))
