from neural_cleanse.classifier import Classifier as Classifier
from neural_cleanse.classifier import Normalize as Normalize
from neural_cleanse.cost import BatchCost as BatchCost
from neural_cleanse.cost import CostSchedule as CostSchedule
from neural_cleanse.cost import ReferenceCost as ReferenceCost
from neural_cleanse.data import ImageSet as ImageSet
from neural_cleanse.errors import NeuralCleanseError as NeuralCleanseError
from neural_cleanse.inversion import Inversion as Inversion
from neural_cleanse.loading.load import load_model as load_model
from neural_cleanse.mitigation.guard import Guard as Guard
from neural_cleanse.outlier import anomaly_index as anomaly_index
from neural_cleanse.readers.load import load_data as load_data
from neural_cleanse.records import (
    LabelPair as LabelPair,
)
from neural_cleanse.records import (
    Recovered as Recovered,
)
from neural_cleanse.records import (
    ScanResult as ScanResult,
)
from neural_cleanse.records import (
    Verdict as Verdict,
)
from neural_cleanse.repair import RepairSettings as RepairSettings
from neural_cleanse.repair import repair as repair
from neural_cleanse.repair_records import RepairResult as RepairResult
from neural_cleanse.scan import scan as scan
from neural_cleanse.scan_settings import ScanSettings as ScanSettings
from neural_cleanse.search import FullSweep as FullSweep
from neural_cleanse.storage import load_result as load_result
from neural_cleanse.storage import save_result as save_result
from neural_cleanse.triggers.patch import PatchTrigger as PatchTrigger
