"""``load_model`` from Python: images that PIL has opened and not read yet."""

from __future__ import annotations

import io
import time

import pytest
import torch
from PIL import Image

from lightning_modules import load_model
from lightning_modules.networks import DualEncoder
from tests.helpers.tiny import picture
from tests.helpers.tiny_run import TINY


class SlowFile(io.BytesIO):
    """Reading it lets other threads run."""

    def read(self, size: int | None = -1, /) -> bytes:
        time.sleep(0.005)
        return super().read(size)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_one_image_several_times_is_read_once(tmp_path, format):
    torch.manual_seed(0)
    DualEncoder(TINY).save_pretrained(tmp_path)
    model, data = load_model(tmp_path, "cpu"), picture(3, 600, 400, format)
    expected = model.embed_images([Image.open(io.BytesIO(data))])
    found = model.embed_images([Image.open(SlowFile(data))] * 5)
    torch.testing.assert_close(found, expected.expand(5, -1))
