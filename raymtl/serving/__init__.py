"""A published version at work: its model in plain torch, cut into user and item part, for batch scoring and for export."""
