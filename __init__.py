"""cotune: federated fine-tuning of language models across organizations.

Every top-level folder is a room with one job. Dependencies point one way (see docs/architecture.md):
cli -> simulations -> attacks -> conf -> server | client -> release | verify -> strategies -> evaluation -> training ->
data -> charter -> adapter -> privacy -> secagg.
"""

__version__ = "0.1.0"
