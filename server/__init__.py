"""The coordinator: rounds, checkpoints, releases. It sees sums only.

Never imports client, and has no path by which an individual update, loss or count reaches it in clear.
"""
