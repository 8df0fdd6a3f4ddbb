"""The settings of the measurements on synthetic logs in docs/, which are older than the default rates and batch size."""

_SAME = ["train.batch_size=2048", "train.sparse_optimizer.lr=0.05", "table_defaults.init.scale=0.1"]
SETTINGS = [*_SAME, "train.dense_optimizer.lr=5e-3"]
PRESET_SETTINGS = [*_SAME, "train.dense_optimizer.lr=3e-3"]
"""Those of the comparison of the presets."""
