"""The files of a data set, or its first problem as an error."""

from raymtl.config.data import DayRange
from raymtl.data.found import File
from raymtl.data.partitions import Layout
from raymtl.data.source import find_files
from raymtl.storage.folder import Folder


def list_files(folder: Folder, days: DayRange | None, layout: Layout = Layout()) -> list[File]:
    """The parquet files of the given days (None: of every day), ordered by path; raises DataError for the first problem."""
    return find_files(folder, days, layout).or_raise().files
