"""Sections of the model's slots: one file per slot, one class per `type`, and the union that the slot takes."""
