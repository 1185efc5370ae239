"""What several tests of training begin with."""

from itertools import islice

import pytest

from audiodiff.data.corpus import open_recordings
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import CropDataset


@pytest.fixture(scope="module")
def stream(tiny_run_config):
    """The first four batches."""
    recordings, _ = open_recordings(tiny_run_config.data)
    reader = CropReader.for_model(tiny_run_config.model, tiny_run_config.data)
    return list(islice(CropDataset(recordings, reader, tiny_run_config.data, 0).batches(0, 4), 4))
