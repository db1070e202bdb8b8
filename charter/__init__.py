"""The charter: what the members signed, how a signature is checked, and what an organization's own policy allows.

Never imports Flower, torch or transformers.
"""
