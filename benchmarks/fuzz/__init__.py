"""Damaged and forged checkpoints: how reading each of them ends."""
