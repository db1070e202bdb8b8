"""An organization's records, read from its files into tokenized examples with a privacy unit.

Never imports training, evaluation, strategies, server or client.
"""
