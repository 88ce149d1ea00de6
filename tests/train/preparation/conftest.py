"""What several tests of the preparation share."""

import pytest

from train.preparation.labels import Labeller


@pytest.fixture(scope="session")
def labeller():
    return Labeller()
