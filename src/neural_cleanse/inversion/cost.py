"""The dynamic cost of Neural Cleanse (Wang et al., S&P 2019): raise lambda while ASR holds, lower it when it breaks.

    loss = cross entropy(target, model(A(x))) + cost * |mask|_1

Two schedules, both pure state machines over k rows in which no row sees another. `ReferenceCost` is the authors'
(visualizer.py): it moves after every `patience` steps of 31 batches. `BatchCost`, ours, moves after every batch: what
that saves is in docs/evaluation.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class CostState:
    """What every schedule says of each row: its `cost`, and whether it is `done`."""

    cost: Float[Tensor, " k"]
    done: Bool[Tensor, " k"]


State = TypeVar("State", bound=CostState)


def take_rows(state: State, rows: Int[Tensor, " m"]) -> State:
    """The state of some rows, in that order."""
    return replace(state, **{field.name: getattr(state, field.name)[rows] for field in fields(state)})


def join_rows(states: Sequence[State]) -> State:
    """The rows of all states (of one schedule), one after the other: the inverse of `take_rows`."""
    first = states[0]
    values = {field.name: torch.cat([getattr(state, field.name) for state in states]) for field in fields(first)}
    return replace(first, **values)


class CostSchedule(ABC):
    """Settings of a schedule; its state goes in and comes out."""

    @abstractmethod
    def start(self, k: int, area: int, device: torch.device) -> CostState:
        """k fresh rows on images of `area` pixels."""

    @abstractmethod
    def judged(self, state: CostState, asr: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """The ASR that decides, after a step that measured `asr`: a trigger is kept only while it holds."""

    @abstractmethod
    def step(self, state: CostState, asr: Float[Tensor, " k"], best_size: Float[Tensor, " k"]) -> CostState:
        """The state after a step with this `asr`; `best_size` is the smallest size kept so far (inf for none)."""


@dataclass(frozen=True)
class ReferenceState(CostState):
    """The counters of the authors' loop, under their names."""

    set_count: Int[Tensor, " k"]
    up_count: Int[Tensor, " k"]
    down_count: Int[Tensor, " k"]
    went_up: Bool[Tensor, " k"]
    went_down: Bool[Tensor, " k"]
    stop_count: Int[Tensor, " k"]
    stop_best: Float[Tensor, " k"]


@dataclass(frozen=True)
class ReferenceCost(CostSchedule):
    """The authors' schedule, constants of gtsrb_visualize_example.py (their class defaults differ and partly crash)."""

    init_cost: float = 1e-3  # INIT_COST; lambda starts at 0 (RESET_COST_TO_ZERO) and becomes this when ASR has held
    asr_target: float = 0.99  # ATTACK_SUCC_THRESHOLD
    patience: int = 5  # PATIENCE
    up: float = 2.0  # COST_MULTIPLIER
    down: float = 2.0**1.5  # the code raises to 1.5; its comment says square root
    stop_threshold: float = 1.0  # EARLY_STOP_THRESHOLD
    stop_patience: int = 25  # EARLY_STOP_PATIENCE, 5 x patience

    def start(self, k: int, area: int, device: torch.device) -> ReferenceState:
        """lambda 0 whatever the area."""
        del area
        zero = torch.zeros(k, dtype=torch.long, device=device)
        no = torch.zeros(k, dtype=torch.bool, device=device)
        none = torch.zeros(k, dtype=torch.float64, device=device)
        return ReferenceState(
            cost=none, done=no, set_count=zero, up_count=zero, down_count=zero, went_up=no, went_down=no,
            stop_count=zero, stop_best=torch.full_like(none, torch.inf),
        )  # fmt: skip

    def judged(self, state: CostState, asr: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """The step's own ASR."""
        del state
        return asr

    def step(self, state: CostState, asr: Float[Tensor, " k"], best_size: Float[Tensor, " k"]) -> ReferenceState:
        """One step of 31 batches, in the order of the authors' loop: early stop first, then lambda."""
        assert isinstance(state, ReferenceState)
        best, kept = best_size.double(), best_size.isfinite()
        no_better = best >= self.stop_threshold * state.stop_best
        stop = torch.where(kept, torch.where(no_better, state.stop_count + 1, 0), state.stop_count)
        done = state.done | (state.went_down & state.went_up & (stop >= self.stop_patience))

        reached = asr >= self.asr_target
        set_count = torch.where((state.cost == 0) & reached, state.set_count + 1, 0)
        switch_on = set_count >= self.patience
        cost = torch.where(switch_on, self.init_cost, state.cost)
        # The authors never reset set_count after switching on; cost > 0 does it in the next step.
        up = torch.where(reached, torch.where(switch_on, 0, state.up_count) + 1, 0)
        down = torch.where(reached, 0, torch.where(switch_on, 0, state.down_count) + 1)
        went_up, went_down = state.went_up & ~switch_on, state.went_down & ~switch_on

        raise_it = up >= self.patience
        lower_it = ~raise_it & (down >= self.patience)
        cost = torch.where(raise_it, cost * self.up, torch.where(lower_it, cost / self.down, cost))
        return ReferenceState(
            cost=torch.where(done, state.cost, cost),
            done=done,
            set_count=set_count,
            up_count=torch.where(raise_it, 0, up),
            down_count=torch.where(lower_it, 0, down),
            went_up=went_up | raise_it,
            went_down=went_down | lower_it,
            stop_count=stop,
            stop_best=torch.minimum(best, state.stop_best),
        )


@dataclass(frozen=True)
class BatchState(CostState):
    """Two moving averages of the batch ASR: `mean` judges a trigger, `quick` moves the cost.

    The weights are the share of each that batches have filled (Adam's bias correction).
    """

    mean: Float[Tensor, " k"]
    weight: Float[Tensor, " k"]
    quick: Float[Tensor, " k"]
    quick_weight: Float[Tensor, " k"]
    reached: Bool[Tensor, " k"]


@dataclass(frozen=True)
class BatchCost(CostSchedule):
    """Ours: an integral controller on log lambda that follows a quick moving average of the batch ASR.

    lambda starts low, so that a trigger is there before the mask shrinks, and rises fast once one is. It stays at its
    start until the ASR comes near the target: lowering it for a mask that has just begun to work would only have to be
    undone. Whether a trigger is kept is for the slower average: the quick one would keep lucky batches.
    """

    start_cost: float = 1.0  # times 1 / area, so that it weighs a mask's share of the image
    asr_target: float = 0.99
    memory: float = 0.9  # of the average that judges: about the last ten batches
    quick_memory: float = 0.5  # of the average that moves lambda: about the last two
    near: float = 0.9  # quick average from which lambda follows
    up: float = 1.2
    down: float = 1.3

    def start(self, k: int, area: int, device: torch.device) -> BatchState:
        """k rows at the starting cost, none of which has reached the ASR."""
        zero = torch.zeros(k, device=device)
        no = torch.zeros(k, dtype=torch.bool, device=device)
        return BatchState(
            cost=torch.full_like(zero, self.start_cost / area), done=no,
            mean=zero, weight=zero, quick=zero, quick_weight=zero, reached=no,
        )  # fmt: skip

    def judged(self, state: CostState, asr: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """The slow average, this batch included."""
        assert isinstance(state, BatchState)
        return _moved(self.memory, state.mean, asr) / _moved(self.memory, state.weight, 1.0)

    def step(self, state: CostState, asr: Float[Tensor, " k"], best_size: Float[Tensor, " k"]) -> BatchState:
        """One batch: lambda x `up` while the quick average holds, / `down` while it does not."""
        assert isinstance(state, BatchState)
        del best_size
        quick = _moved(self.quick_memory, state.quick, asr)
        quick_weight = _moved(self.quick_memory, state.quick_weight, 1.0)
        now = quick / quick_weight
        reached = state.reached | (now >= self.near)
        followed = torch.where(now >= self.asr_target, state.cost * self.up, state.cost / self.down)
        return BatchState(
            cost=torch.where(reached, followed, state.cost),
            done=state.done,
            mean=_moved(self.memory, state.mean, asr),
            weight=_moved(self.memory, state.weight, 1.0),
            quick=quick,
            quick_weight=quick_weight,
            reached=reached,
        )


def _moved(memory: float, average: Float[Tensor, " k"], value: Float[Tensor, " k"] | float) -> Float[Tensor, " k"]:
    """A moving average, with one more value."""
    return memory * average + (1 - memory) * value
