"""Pretraining and adaptation: one loop, checkpoints, the voice that is loaded from them."""
