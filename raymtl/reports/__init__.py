"""The HTML report of a run (`html.write_report`) and its table for the terminal (`terminal.metric_table`)."""
