"""Batches shared between asks: formed late, from all that waits."""
