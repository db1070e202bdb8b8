"""What an organization sends and how the sum becomes the next adapter: one file per rule.

Never imports server, client or Flower: a strategy sees vectors and sums, never who sent them.
"""
