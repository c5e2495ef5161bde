from neural_cleanse.classifier import Classifier as Classifier
from neural_cleanse.classifier import Normalize as Normalize
from neural_cleanse.detection.plans import FullSweep as FullSweep
from neural_cleanse.detection.scan import scan as scan
from neural_cleanse.detection.settings import ScanSettings as ScanSettings
from neural_cleanse.detection.statistics.outlier import anomaly_index as anomaly_index
from neural_cleanse.errors import NeuralCleanseError as NeuralCleanseError
from neural_cleanse.images import ImageSet as ImageSet
from neural_cleanse.inversion.cost import BatchCost as BatchCost
from neural_cleanse.inversion.cost import CostSchedule as CostSchedule
from neural_cleanse.inversion.cost import ReferenceCost as ReferenceCost
from neural_cleanse.inversion.inversion import Inversion as Inversion
from neural_cleanse.loading.images.load import load_data as load_data
from neural_cleanse.loading.load import load_model as load_model
from neural_cleanse.mitigation.guard import Guard as Guard
from neural_cleanse.mitigation.repair import RepairSettings as RepairSettings
from neural_cleanse.mitigation.repair import repair as repair
from neural_cleanse.results.records import (
    LabelPair as LabelPair,
)
from neural_cleanse.results.records import (
    Recovered as Recovered,
)
from neural_cleanse.results.records import (
    ScanResult as ScanResult,
)
from neural_cleanse.results.records import (
    Verdict as Verdict,
)
from neural_cleanse.results.repair import RepairResult as RepairResult
from neural_cleanse.results.storage import load_result as load_result
from neural_cleanse.results.storage import save_result as save_result
from neural_cleanse.triggers.patch import PatchTrigger as PatchTrigger
