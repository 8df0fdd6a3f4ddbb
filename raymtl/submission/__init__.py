"""Commands of raymtl as jobs of a Ray cluster: what a submission sends, and how it follows the job."""
