import torch

from melgpu.models.classifier import Classifier
from melgpu.training.optimizer import Progress
from melgpu.training.state import start_training
from tests.helpers.training import DEMO, MACHINE, OPTIM, PROVENANCE, fresh_tiny


def test_a_resumed_training_keeps_its_micro_batch():
    training = fresh_tiny(OPTIM)
    training.micro_batch = 2
    resumed = fresh_tiny(OPTIM)
    resumed.restore(training.state(PROVENANCE), OPTIM)
    assert resumed.micro_batch == 2


def test_a_resumed_training_keeps_its_engine():
    training = fresh_tiny(OPTIM)
    training.engine = "nnaudio"
    resumed = fresh_tiny(OPTIM)
    resumed.restore(training.state(PROVENANCE), OPTIM)
    assert resumed.engine == "nnaudio"


def test_another_world_size_resumes_after_the_same_number_of_windows():
    changes = {"world_size": 4, "progress": Progress(step=10), "metric_sums": torch.tensor([5.0, 1.0]).double()}
    resumed = fresh_tiny(OPTIM)
    resumed.restore(fresh_tiny(OPTIM).state(PROVENANCE).model_copy(update=changes), OPTIM)
    assert resumed.progress.step == 40
    assert resumed.metric_sums.tolist() == [20, 4]


def test_a_compiled_body_keeps_its_parameter_names():
    torch.manual_seed(0)
    eager, model = (Classifier("resnet50", 2, DEMO) for _ in range(2))
    start_training(model, OPTIM, MACHINE.model_copy(update={"compile": True}))
    assert model.body._compiled_call_impl
    assert model.state_dict().keys() == eager.state_dict().keys()
