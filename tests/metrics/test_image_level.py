import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from monai.transforms import Lambdad
from sklearn.metrics import average_precision_score, roc_auc_score

from scripts.metrics import ImageMetrics

NAMES = ["image_auroc", "image_ap", "image_f1max", "image_f1max_floor"]
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 23)
SCORES = 60 + 0.01 * RNG.normal(size=23) + 0.01 * LABELS


def metrics_of(*batches):
    metric = ImageMetrics()
    for batch in batches:
        metric.update(batch)
    return metric.compute()


def test_batches_equal_scikit_learn():
    scores, labels = torch.tensor(SCORES), torch.tensor(LABELS)
    metrics = metrics_of((scores[:10], labels[:10]), (scores[10:], labels[10:]))

    assert list(metrics) == NAMES
    assert metrics["image_auroc"] == pytest.approx(roc_auc_score(LABELS, SCORES), rel=1e-12)
    assert metrics["image_ap"] == pytest.approx(average_precision_score(LABELS, SCORES), rel=1e-12)


@pytest.mark.parametrize(
    "scores",
    [
        torch.tensor([3.0, 1.0, 2.0, 0.0]),
        torch.tensor([[3.0], [1.0], [2.0], [0.0]]),
        torch.tensor([3.0, 1.0, 2.0, 0.0], dtype=torch.float16, requires_grad=True),
        [3.0, 1.0, 2.0, 0.0],
        [torch.tensor(3.0), torch.tensor([1.0]), torch.tensor([[2.0]]), torch.tensor(0.0)],
        [MetaTensor([3.0]), MetaTensor([1.0]), MetaTensor([2.0]), MetaTensor([0.0])],
    ],
    ids=["(B,)", "(B,1)", "half with gradient", "numbers", "one-element tensors", "MetaTensors"],
)
@pytest.mark.parametrize("labels", [torch.tensor([1, 1, 0, 0]), [True, True, False, False], [1, 1, 0.0, 0]])
def test_accepted_forms_of_a_batch(scores, labels):
    assert metrics_of((scores, labels)) == pytest.approx(
        {"image_auroc": 0.75, "image_ap": 5 / 6, "image_f1max": 0.8, "image_f1max_floor": 2 / 3}
    )


def test_python_floats_keep_double_precision_in_the_engine():
    # The scores differ by less than float32 resolves.
    engine = Engine(lambda engine, batch: batch)
    ImageMetrics().attach(engine, "image_auroc")
    engine.run([([60 + 1e-9, 60.0], [1, 0])])

    assert engine.state.metrics["image_auroc"] == 1


def test_reset_forgets():
    metric = ImageMetrics()
    metric.update(([5.0], [0]))
    metric.reset()
    metric.update(([1.0, 0.0], [1, 0]))

    assert metric.compute()["image_auroc"] == 1


def test_key_metric_of_a_monai_evaluator():
    items = [{"image": torch.full((1, 4, 4), float(s)), "label": int(y)} for s, y in zip(SCORES, LABELS, strict=False)]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=4),
        network=torch.nn.Identity(),
        postprocessing=Lambdad("pred", torch.Tensor.amax, overwrite="score"),
        key_val_metric={"image_auroc": ImageMetrics(from_engine(["score", "label"]))},
    )
    evaluator.run()

    expected = roc_auc_score(LABELS, SCORES.astype(np.float32))
    assert list(evaluator.state.metrics) == NAMES
    assert all(isinstance(value, float) for value in evaluator.state.metrics.values())
    assert evaluator.state.metrics["image_auroc"] == pytest.approx(expected, rel=1e-12)
    assert evaluator.state.best_metric == evaluator.state.metrics["image_auroc"]


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [0, 0], "image AUROC is not defined: all 2 labels are 0"),
        ([1.0, 2.0], [1, 1], "image AUROC is not defined: all 2 labels are 1"),
        ([1.0, float("nan")], [0, 1], "image scores hold 1 NaN or infinite values of 2"),
        ([1.0, 2.0], [0, 2], "image labels must be 0"),
        ([], [], "image scores are empty"),
        ([1.0, 2.0], [0], "2 image scores but 1 labels"),
    ],
)
def test_bad_input_says_what_is_wrong(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics_of((scores, labels))


def test_no_batch_at_all():
    with pytest.raises(ValueError, match="image scores are empty"):
        ImageMetrics().compute()


RANK = """
import sys, torch
import torch.distributed as dist
from scripts.metrics import ImageMetrics
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
data = torch.load(sys.argv[3])
metric = ImageMetrics()
part = slice(0, 17) if rank == 0 else slice(17, 23)
metric.update((data["scores"][part], data["labels"][part]))
print(*(value.hex() for value in metric.compute().values()))
metric.reset()
if rank == 0:
    metric.update((data["scores"], data["labels"]))
print(*(value.hex() for value in metric.compute().values()))
dist.destroy_process_group()
"""


def test_two_ranks_with_unequal_numbers_of_items_equal_one(two_ranks):
    scores, labels = torch.tensor(SCORES), torch.tensor(LABELS)
    expected = list(metrics_of((scores, labels)).values())
    for lines in two_ranks(RANK, scores=scores, labels=labels):
        # First with 17 and 6 items, then with all and none.
        assert [[float.fromhex(value) for value in line.split()] for line in lines[-2:]] == [expected, expected]
