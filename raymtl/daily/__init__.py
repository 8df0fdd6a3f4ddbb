"""The daily job: `runner` goes through the days, `day` through the states of one, `reports` shows them."""
