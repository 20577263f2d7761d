"""The nearest name, and none where nothing is near."""

import pytest

from datamodules.spelling import did_you_mean


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("betta", "; did you mean beta?"),
        ("betaclip", "; did you mean BetaClip?"),
        ("zzz", ""),
        ("", ""),
        ("alp", "; did you mean alpha?"),
        ("al", ""),
    ],
)
def test_nearest(name, says):
    assert did_you_mean(name, ["beta", "alpha", "BetaClip"]) == says
