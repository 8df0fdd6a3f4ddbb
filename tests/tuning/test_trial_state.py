"""The small file that names a trial's newest checkpoint names a folder of the trial, and nothing else."""

import json

import pytest

from raymtl.errors import CheckpointError
from raymtl.training.rundir import RunFolder
from raymtl.tuning.inprocess_trial import _named_in

TRIAL = RunFolder.open("/search/trials/1")


def test_a_folder_of_the_trial() -> None:
    assert _named_in('{"folder": "state-12-1795695624"}', TRIAL) == "state-12-1795695624"


@pytest.mark.parametrize("name", ["../../precious", "/precious", "state-1-2/../..", "", None, 3, "state-1-2\n"])
def test_anything_else_is_refused_since_it_would_be_removed(name: object) -> None:
    with pytest.raises(CheckpointError, match=r"trials/1/state\.json` is damaged"):
        _named_in(json.dumps({"folder": name}), TRIAL)
    with pytest.raises(CheckpointError, match="is damaged"):
        _named_in("[]", TRIAL)
