"""The sums that `benchmarks/secagg.py` compares, one module each."""
