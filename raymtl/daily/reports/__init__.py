"""What the daily job shows: a page per day (`day`), a page of the last days (`index`), a table on the terminal (`table`)."""
