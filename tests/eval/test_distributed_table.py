"""Identities of samples and of what belongs to them."""

import pytest
import torch

from eval.metrics.distributed_table import TableMetric, key_ids, member_ids


def test_key_ids_are_stable_distinct_and_leave_integers():
    ids = key_ids(["a", "b", "a"])
    assert ids[0] == ids[2] != ids[1]
    assert ids.dtype == torch.int64
    assert key_ids(["a"]).item() == key_ids(["x", "a"])[1].item()  # and nothing of the batch enters
    assert torch.equal(key_ids(torch.tensor([3, -1])), torch.tensor([3, -1]))
    assert len(key_ids([])) == 0
    assert len(key_ids([f"{i:09d}" for i in range(20000)]).unique()) == 20000


def test_members_are_numbered_within_their_sample():
    keys = key_ids(["a", "b", "a"])  # the sample "a" stands twice, as padding does
    owner = torch.tensor([0, 1, 0, 2, 1, 2])
    ids = member_ids(keys, owner).tolist()
    assert ids[0] == ids[3]  # first thing of "a", both times
    assert ids[2] == ids[5]
    assert len({ids[0], ids[1], ids[2], ids[4]}) == 4
    shuffled = torch.tensor([1, 0, 4, 2, 3, 5])  # other samples in between change nothing
    assert torch.equal(member_ids(keys, owner[shuffled]), torch.tensor(ids)[shuffled])


class Labels(TableMetric):
    def __init__(self):
        super().__init__()
        self.add_table("labels", label=torch.int64)

    def update(self, ids, **columns):
        self.append("labels", id=ids, **columns)

    def compute(self):
        return self.rows("labels", "ids")


def test_rows_need_all_their_columns():
    with pytest.raises(ValueError, match=r"columns must be \['id', 'label'\], got \['id'\]"):
        Labels().update(torch.tensor([1]))


def test_rows_come_sorted_by_id_each_once():
    metric = Labels()
    metric.update(torch.tensor([5, 2]), label=torch.tensor([1, 3], dtype=torch.int32))
    metric.update(torch.tensor([2, -4]), label=torch.tensor([3, 7]))
    rows = metric.compute()
    assert (rows["id"].tolist(), rows["label"].tolist()) == ([-4, 2, 5], [7, 3, 1])
