"""Metrics of a base model with or without an adapter, and the baselines printed beside them.

Never imports strategies, server, client or Flower.
"""
