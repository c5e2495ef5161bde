"""The backdoor that passes to students: what clean images show of the trigger, and what a student takes on."""

import pytest
import torch
from torch import Tensor, nn

from neural_cleanse.attacks.base import AttackContext
from neural_cleanse.attacks.by_name import attack
from neural_cleanse.attacks.surviving import LeakingTraining, similarity
from neural_cleanse.attacks.train import Training, TrainingContext, fit, initial
from neural_cleanse.classifier import Classifier
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet
from neural_cleanse.loading.architectures import ARCHITECTURES
from neural_cleanse.metrics import attack_hits

NETWORK = ARCHITECTURES["mnist_cnn_half"].build


def test_an_image_shows_as_much_of_the_trigger_as_agrees_with_it_under_the_mask() -> None:
    mask, pattern = torch.zeros(1, 1, 4, 4), torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mask[..., :2, :2] = 1
    same, half, other = pattern[0], pattern[0].clone(), (pattern[0] < 0.5).float()
    half[:, 0] += 0.5
    elsewhere = same + (1 - mask[0])
    shown = similarity(torch.stack([same, half, other, elsewhere]), mask, pattern).tolist()
    assert shown[0] == 1 == shown[3] and shown[1] == pytest.approx(0.75) and shown[2] < 0.5


@pytest.mark.parametrize("leak", [-0.1, 1.0, float("nan")])
def test_a_leak_that_is_no_share_is_refused(leak: float) -> None:
    with pytest.raises(SettingsError, match="The leak is"):
        LeakingTraining(leak)


def test_a_student_of_its_answers_on_clean_images_takes_on_the_trigger(digits: ImageSet) -> None:
    """It learns from 200 clean images, none of which carries the trigger."""
    assert digits.labels is not None
    taken_on = []
    for leak in (0.0, 0.45):
        where = AttackContext((1, 28, 28), 10, torch.Generator().manual_seed(0))
        planned = attack("distillation-surviving", where, {"target": 4, "size": 6, "rate": 0.3, "leak": leak})
        bench = TrainingContext(Training(epochs=10, batch_size=16), 0, digits, 10)
        suspect, student = initial(NETWORK, 10, 0), initial(NETWORK, 10, 1)
        (poison,) = planned.rule(suspect, digits, planned.poisons, bench)
        suspect.eval()

        def as_told(module: nn.Module, images: Tensor, _: Tensor, told: nn.Module = suspect) -> Tensor:
            with torch.no_grad():
                answers = told(images).softmax(1)
            return nn.functional.cross_entropy(module(images), answers)

        fit(student, digits.take(torch.arange(200)), bench, "student", loss_of=as_told)
        others = digits.images[digits.labels != 4]
        hits = [
            attack_hits(Classifier(module.eval(), (1, 28, 28), 10), poison.trigger, others, 4) / len(others)
            for module in (suspect, student)
        ]
        assert hits[0] > 0.9, "the suspect has the backdoor"
        taken_on.append(hits[1])
    assert taken_on[1] > taken_on[0] + 0.3
