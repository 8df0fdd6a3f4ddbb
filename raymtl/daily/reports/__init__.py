"""What the daily job shows: a page per day (`day`), a page of the last days (`index`), a table on the terminal (`table`)."""

from raymtl.daily.reports.day import write_day_report
from raymtl.daily.reports.index import write_index
from raymtl.daily.reports.table import day_table, verdict

__all__ = ["day_table", "verdict", "write_day_report", "write_index"]
