"""Tables of Delta Lake and Apache Iceberg: the list of a snapshot's files, which are then read as any other parquet files."""
