import pytest
import torch
from classy_vision.meters import build_meter

LOGITS = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [3.0, 1.0, 2.0]])
LABELS = torch.tensor([0, -1, 0, 1])  # right, none, second, third


def build(topk_values, *names):
    config = {"topk_values": topk_values, "meter_names": list(names), "num_meters": len(names)}
    return build_meter({"name": "clusterfit_accuracy_meter", **config})


@pytest.fixture
def meter():
    return build([1, 2], "clusters")


def test_samples_without_a_label_do_not_count(meter):
    meter.update(LOGITS, LABELS)
    assert meter.value == {
        "top_1": {"clusters": pytest.approx(100 / 3, abs=0.01)},
        "top_2": {"clusters": pytest.approx(200 / 3, abs=0.01)},
    }


def test_a_batch_without_labels_changes_nothing(meter):
    meter.update(LOGITS, LABELS)
    before = meter.value
    meter.update([LOGITS], torch.full((4,), -1))
    assert meter.value == before


def test_each_head_has_its_column():
    meter = build([1], "a", "b")
    meter.update([LOGITS, LOGITS], torch.stack([torch.tensor([0, 2, 1, 0]), torch.tensor([0, -1, -1, 1])], dim=1))
    assert meter.value == {"top_1": {"a": 100.0, "b": 50.0}}


def test_the_index_of_a_sample_beside_its_label_does_not_count():
    first, both = build([1], "a"), build([1], "a", "b")
    first.update(LOGITS, torch.stack([LABELS, torch.arange(4)], dim=1))
    assert first.value == {"top_1": {"a": pytest.approx(100 / 3, abs=0.01)}}
    both.update([LOGITS, LOGITS], torch.stack([LABELS, torch.tensor([0, 2, 1, 0]), torch.arange(4)], dim=1))
    assert both.value == {"top_1": {"a": pytest.approx(100 / 3, abs=0.01), "b": 100.0}}


def test_it_reports_under_vissls_name(meter):
    assert meter.name == "accuracy_list_meter"
