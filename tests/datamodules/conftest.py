"""NLTK's data for the tests that cut sentences and phrases."""

from __future__ import annotations

import pytest

from datamodules.nltk_data import missing_nltk_data


@pytest.fixture(scope="session")
def nltk_data(request: pytest.FixtureRequest) -> None:
    """NLTK's own data where it is installed, else the reference folder's; skips where neither is there."""
    import nltk  # takes seconds, which only the tests that ask for this fixture should pay

    if missing_nltk_data():
        nltk.data.path.insert(0, str(request.getfixturevalue("shared") / "nltk_data"))
    if missing_nltk_data():
        pytest.skip("needs NLTK's data: python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng")
