"""Reverse-engineer triggers by gradient (Wang et al., S&P 2019, section IV), for many label pairs at once.

    minimise over mask and pattern   cross entropy(target, model(A(x))) + cost * |mask|_1     over clean images x

One batch holds b images for each of k rows, a row being one restart of one label pair. Rows never mix: each has its
own images, cost, counters and best candidates, so a batch of k rows equals k single runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from neural_cleanse.choices import Precision
from neural_cleanse.classifier import Classifier
from neural_cleanse.inversion.cost import BatchCost, CostSchedule
from neural_cleanse.inversion.losses import Loss, cross_entropy
from neural_cleanse.inversion.race import to_next_mark, without_losers
from neural_cleanse.inversion.restarts import Choice, choose, merge
from neural_cleanse.inversion.sampling import Row, ScanImages, Split, start_generator
from neural_cleanse.inversion.state import InversionState
from neural_cleanse.metrics import pixels
from neural_cleanse.results.records import LabelPair, Recovered
from neural_cleanse.triggers.base import SMALLEST_SIZE, SearchedTrigger, Trigger
from neural_cleanse.triggers.patch import PatchTrigger

RECENT_MEMORY, TRAILING_MEMORY = 0.9, 0.98  # of the averages of the log size, whose difference says how fast it falls

SPREAD_STEP = 0.25  # of log size: what the `spread` slots lie apart


@dataclass(frozen=True)
class Inversion:
    """Settings of the search for one trigger a label pair. The defaults are the `default` preset.

    Many small batches shrink a mask further than few large ones for the same image passes, and the moving average of
    the free variables (Polyak and Juditsky 1992) takes out the noise that small batches bring: `average` is its memory.
    `choose_asr` is asked of a candidate on images that the search did not see.

    Restarts race (successive halving; Jamieson and Talwalkar 2016): an item (steps, n) of `race` says that after so
    many steps only the n smallest restarts of a label pair go on: few take all steps.

    A pair whose trigger still shrinks after `steps` may take `extra_steps` more (detection/plans). The size that a
    trigger must undercut grows by `relax` a step: one kept for a lucky batch does not keep later ones out.

    The authors' way differs: `average` 0 and `choose_asr` None; `keep_after_step` keeps the trigger as the update left
    it, not as it was measured; `all_images` searches on every image given, the target's own included.

    The last `kept` triggers are candidates, and the last one of each of `spread` classes of size: with few images the
    latest may work on those alone, and a larger one on others as well.

    `precision` is the model's in the search, fp32 or bf16 (autocast); the trigger's variables, and all that `finish`
    measures, stay fp32. It measures on at most `judge_images` of the choose images, and as many of the confirm images:
    a short search would else spend half of its time on being measured. The loss sees logits over `temperature`.
    """

    trigger: type[SearchedTrigger] = PatchTrigger
    cost: CostSchedule = BatchCost()
    loss: Loss = cross_entropy
    steps: int = 250
    restarts: int = 4
    race: tuple[tuple[int, int], ...] = ((84, 2), (125, 1))
    extra_steps: int = 250
    batch_size: int = 4
    batches_per_step: int = 1
    learning_rate: float = 0.3
    betas: tuple[float, float] = (0.5, 0.9)
    epsilon: float = 1e-7  # Keras' own
    average: float = 0.8
    asr_target: float = 0.99
    kept: int = 16
    spread: int = 8
    shrink_to_keep: float = 0.97
    relax: float = 1.005
    choose_asr: float | None = 0.95
    allow_chance: bool = True
    keep_after_step: bool = False
    all_images: bool = False
    precision: str = Precision.FP32.value
    judge_images: int | None = None
    temperature: float = 1.0

    @property
    def passes(self) -> int:
        """Image passes that one label pair takes at most, all restarts together."""
        total, racing, before = 0, self.restarts, 0
        for until, keep in (*self.race, (self.steps, 0)):
            until = min(until, self.steps)
            total, racing, before = total + racing * (until - before), min(racing, keep), until
        return total * self.batches_per_step * self.batch_size

    def describe(self) -> dict[str, Any]:
        """The settings as plain values, for the record."""
        names = {"trigger": self.trigger.__name__, "loss": getattr(self.loss, "__name__", str(self.loss))}
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return settings | names | {"cost": {"schedule": type(self.cost).__name__} | vars(self.cost)}

    def start(self, classifier: Classifier, pairs: Sequence[LabelPair], seed: int) -> InversionState:
        """All restarts of all pairs at their random start values."""
        rows = tuple(Row(pair, restart) for pair in pairs for restart in range(self.restarts))
        starts = [self.trigger.random_free(classifier.input_shape, start_generator(row, seed)) for row in rows]
        free = tuple(torch.stack(parts).to(classifier.device) for parts in zip(*starts, strict=True))
        zeros = tuple(torch.zeros_like(variables) for variables in free)
        device, k = classifier.device, len(rows)
        area = classifier.input_shape[1] * classifier.input_shape[2]
        infinite = torch.full((k,), torch.inf, device=device)
        return InversionState(
            rows=rows,
            free=free,
            averaged=free,
            momentum=zeros,
            variance=zeros,
            batches=(none := torch.zeros(k, dtype=torch.long, device=device)),
            lost=none,
            cost=self.cost.start(k, area, device),
            candidates=tuple(v.unsqueeze(1).repeat(1, self.kept + self.spread, *[1] * (v.dim() - 1)) for v in free),
            candidate_sizes=torch.full((k, self.kept + self.spread), torch.inf, device=device),
            num_kept=torch.zeros(k, dtype=torch.long, device=device),
            best_size=infinite,
            recent=(size := self.trigger.size_of(free).log()),
            trailing=size,
        )

    def advance(self, classifier: Classifier, data: ScanImages, state: InversionState, steps: int) -> InversionState:
        """Go on for `steps` steps. A row that is done stays as it is; one that lost the race leaves the state."""
        while steps > 0:
            state = without_losers(state, self._marks)
            stride = min([steps, *(left // self.batches_per_step for left in to_next_mark(state, self._marks))])
            state = self._moved(classifier, data, state, stride)
            steps -= stride
        return state

    def _moved(self, classifier: Classifier, data: ScanImages, state: InversionState, steps: int) -> InversionState:
        drawn = self._draw(data, state, steps)
        targets = data.targets(state.rows, drawn)
        # A copy of the candidates here, so that every step may write its few rows in place: they are most of a state.
        candidates = tuple(kept.clone() for kept in state.candidates)
        state = replace(state, candidates=candidates, candidate_sizes=state.candidate_sizes.clone())
        with torch.enable_grad():  # also where the caller's own code runs under no_grad
            for step in range(steps):
                state = self._step(classifier, data, drawn[:, step], targets[:, step], state)
        return state

    @property
    def _marks(self) -> dict[int, int]:
        """How many restarts of a pair go on after so many batches."""
        return {after * self.batches_per_step: keep for after, keep in self.race if after < self.steps}

    def _draw(self, data: ScanImages, state: InversionState, steps: int) -> Int[Tensor, "k steps batches b"]:
        """The images of the next steps, each row's from its own shuffle."""
        count = steps * self.batches_per_step * self.batch_size
        rows = [
            data.draw(row, self._pool(data, row.pair), done * self.batch_size, count)
            for row, done in zip(state.rows, state.batches.tolist(), strict=True)
        ]
        drawn = torch.stack(rows).view(len(rows), steps, self.batches_per_step, self.batch_size)
        return drawn.to(data.images.device)

    def _pool(self, data: ScanImages, pair: LabelPair) -> Int[Tensor, " m"]:
        return torch.arange(len(data.images)) if self.all_images else data.eligible(pair, Split.OPTIMISE)

    def _step(
        self,
        classifier: Classifier,
        data: ScanImages,
        drawn: Int[Tensor, "k batches b"],
        targets: Int[Tensor, "k batches b"],
        state: InversionState,
    ) -> InversionState:
        """One step: batches at one cost, then best-so-far and the cost from what they measured before each update."""
        before, asrs, sizes = state, [], []
        for batch in range(self.batches_per_step):
            free = tuple(variables.detach().requires_grad_() for variables in state.free)
            trigger = self.trigger.decode(free)
            triggered = trigger(pixels(data.images[drawn[:, batch]]))  # k n c h w
            with torch.autocast(classifier.device.type, torch.bfloat16, enabled=self.precision == Precision.BF16):
                logits = classifier(triggered.flatten(0, 1)).float().unflatten(0, triggered.shape[:2])  # k n classes
            loss = self.loss(logits / self.temperature, targets[:, batch])  # k
            size = trigger.size()  # k
            # Rows are independent: the sum couples nothing.
            gradients = torch.autograd.grad((loss + state.cost.cost.to(size.dtype) * size).sum(), free)
            state = self._update(state, gradients)
            asrs.append((logits.detach().argmax(-1) == targets[:, batch]).float().mean(1))
            sizes.append(size.detach())
        asr = torch.stack(asrs).mean(0)
        holds = (self.cost.judged(before.cost, asr) >= self.asr_target) & ~state.cost.done
        if self.keep_after_step:
            state = self._keep(state, state.free, torch.stack(sizes).mean(0), holds)
        else:
            averaged = tuple(
                old.lerp(new, 1 - self.average) for old, new in zip(before.averaged, before.free, strict=True)
            )
            state = replace(state, averaged=averaged)
            state = self._keep(state, averaged, self.trigger.size_of(averaged), holds)
        return replace(state, cost=self.cost.step(state.cost, asr, state.best_size))

    def _update(self, state: InversionState, gradients: Sequence[Tensor]) -> InversionState:
        """Adam as Keras writes it (epsilon beside the root), a step count a row: rows may join and leave a batch."""
        count = state.batches + 1
        first, second = self.betas
        rate = self.learning_rate * (1 - second**count).sqrt() / (1 - first**count)
        rate = torch.where(state.cost.done, 0.0, rate)
        free, momentum, variance = [], [], []
        for value, mean, square, gradient in zip(state.free, state.momentum, state.variance, gradients, strict=True):
            mean = first * mean + (1 - first) * gradient
            square = second * square + (1 - second) * gradient**2
            free.append(value - _per_row(rate, value) * mean / (square.sqrt() + self.epsilon))
            momentum.append(mean)
            variance.append(square)
        return replace(
            state, free=tuple(free), momentum=tuple(momentum), variance=tuple(variance),
            batches=torch.where(state.cost.done, state.batches, count),
        )  # fmt: skip

    def _keep(
        self, state: InversionState, free: Sequence[Tensor], size: Float[Tensor, " k"], holds: Bool[Tensor, " k"]
    ) -> InversionState:
        """Put the triggers into the next slot where the ASR holds and they are smaller than what was kept.

        Writes the candidates in place: they are the copy that `advance` made.
        """
        bar = self.relax * state.best_size
        better = holds & (size < self.shrink_to_keep * bar)
        log_size = size.clamp_min(SMALLEST_SIZE).log()
        slots = [state.num_kept % self.kept]
        if self.spread:
            slots.append(self.kept + (log_size / SPREAD_STEP).floor().long() % self.spread)
        rows = torch.arange(len(size), device=size.device)
        for kept, new in zip((*state.candidates, state.candidate_sizes), (*free, size), strict=True):
            for slot in slots:
                kept[rows, slot] = torch.where(_per_row(better, new), new, kept[rows, slot])
        return replace(
            state,
            num_kept=state.num_kept + better,
            best_size=torch.where(better, size, bar),
            recent=state.recent.lerp(log_size, 1 - RECENT_MEMORY),
            trailing=state.trailing.lerp(log_size, 1 - TRAILING_MEMORY),
        )

    def finish(self, classifier: Classifier, data: ScanImages, state: InversionState) -> tuple[Recovered, ...]:
        """One record a pair: restarts merged, the ASR measured again on images that nothing was chosen on."""
        records, last_sizes = [], self.trigger.size_of(state.averaged).tolist()
        for pair in dict.fromkeys(row.pair for row in state.rows):
            mine = [index for index, row in enumerate(state.rows) if row.pair == pair]
            passes = state.take(mine).batches_taken * self.batch_size
            confirm = self._judges(data, pair, Split.TEST)
            choices = [self._choose(classifier, data, state, index) for index in mine]
            merged = merge(classifier, confirm, pair, choices, passes)
            records.append(replace(merged, last_size=min(last_sizes[index] for index in mine)))
        return tuple(records)

    def _judges(self, data: ScanImages, pair: LabelPair, part: Split) -> Num[Tensor, "n c h w"]:
        return data.images[data.eligible(pair, part)[: self.judge_images]]

    def _choose(self, classifier: Classifier, data: ScanImages, state: InversionState, index: int) -> Choice:
        """The smallest kept trigger of a row that also holds on the select images."""

        def trigger(slot: int) -> Trigger:
            return self.trigger.decode([variables[index, slot].unsqueeze(0) for variables in state.candidates])

        row, sizes = state.rows[index], state.candidate_sizes[index].tolist()
        slots = sorted((slot for slot, size in enumerate(sizes) if math.isfinite(size)), key=sizes.__getitem__)
        if self.choose_asr is None and slots:
            return Choice(trigger(slots[0]), sizes[slots[0]], 0.0 if state.cost.done[index] else math.inf, 0)
        last = self.trigger.decode([variables[index].unsqueeze(0) for variables in state.free])
        if self.choose_asr is None:
            return Choice(last, None, 0.0, 0)
        images = self._judges(data, row.pair, Split.SELECT)
        candidates = ((trigger(slot), sizes[slot]) for slot in slots)
        fall = float(state.trailing[index] - state.recent[index])
        chosen = choose(
            classifier, images, row.pair.target, candidates, self.choose_asr, fall, allow_chance=self.allow_chance
        )
        return chosen or Choice(last, None, fall, len(slots) * len(images))


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """`values` with trailing dimensions of 1, so that they broadcast over what a row holds."""
    return values.view(*values.shape, *[1] * (like.dim() - values.dim()))
