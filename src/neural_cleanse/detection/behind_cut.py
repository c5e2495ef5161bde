"""The suspect behind its cut, which the tests of shifts and of their maps search."""

from dataclasses import dataclass

from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.feature_space import FeatureSpace, feature_space
from neural_cleanse.detection.kinds_found import Unfinished
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.stages import Stages

MOST_LABELS = 100  # above which shifts are not searched
EXPECTED_SHARE = 0.8  # of the network's work that its tail takes, until it is known


@dataclass
class BehindCut:
    """Makes the space behind the cut when a test first asks for it; `forward_passes` are what that took."""

    prepared: PreparedScan
    stages: Stages
    forward_passes: int = 0
    _made: FeatureSpace | str | None = None

    @property
    def possible(self) -> bool:
        """Whether the number of labels allows it."""
        return self.prepared.num_labels <= MOST_LABELS

    def space(self) -> FeatureSpace | str:
        """The space, or why there is none."""
        if self._made is None:
            self._made = self._space()
        return self._made

    def _space(self) -> FeatureSpace | str:
        if not self.possible:
            return f"over {MOST_LABELS} labels"
        try:
            return feature_space(self.prepared.classifier, self.prepared.images, self._spent)
        except OutOfTime:
            self.stages.tracker.truncated = True
            return Unfinished().reason

    def _spent(self, forward_passes: int) -> None:
        self.forward_passes += forward_passes
