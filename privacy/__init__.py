"""Differential privacy: clipping, noise, sampling, accounting and the ledger.

Knows numbers and files, not models. Never imports Flower or transformers.
"""
