"""The organization's loop: base model, LoRA adapter, per-unit gradients, the private step.

Never imports strategies, server, client or Flower.
"""
