"""Identities of samples and of what belongs to them."""

import pytest
import torch

from eval.metrics.distributed_table import Rows, key_ids, member_ids


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


def test_rows_need_all_their_columns():
    rows = Rows(label=torch.int64)
    with pytest.raises(ValueError, match=r"columns must be \['id', 'label'\], got \['id'\]"):
        rows.add(id=torch.tensor([1]))
