"""Finding the user's error in whatever wraps it."""

import pickle

import pytest

from raymtl.errors import ConfigError, DataError, find_user_error


def test_found_through_python_chaining():
    outer = RuntimeError("a task failed")
    outer.__cause__ = ValueError("in between")
    outer.__cause__.__context__ = DataError("the file is empty")
    assert str(find_user_error(outer)) == "the file is empty"


def test_nothing_to_find():
    assert find_user_error(None) is None
    assert find_user_error(ValueError("x")) is None


def test_chains_that_bite_their_tail():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert find_user_error(first) is None


@pytest.mark.parametrize("kind", [DataError, ConfigError])
def test_the_sentence_survives_what_ray_appends_and_the_way_between_processes(kind):
    error = kind("the label is 7")
    error.args = ("the label is 7\nFailed to apply UDF transform after 1/1 attempts", *error.args[1:])
    travelled = pickle.loads(pickle.dumps(error))
    assert type(travelled) is kind
    assert str(travelled) == "the label is 7"
    assert travelled.exit_code == kind.exit_code


def test_found_in_the_error_of_a_ray_task():
    from ray.exceptions import RayTaskError

    wrapped = RayTaskError("read", "Traceback of sixty lines", DataError("the label is 7")).as_instanceof_cause()
    found = find_user_error(wrapped)
    assert type(found) is DataError
    assert str(found) == "the label is 7"
