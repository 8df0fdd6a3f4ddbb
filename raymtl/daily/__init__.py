"""The daily job: versions of the model on plain storage, and who may write them."""
