"""The daily job: `machine` and `day` are its states, `versions` what it publishes, `reports` what it shows."""
