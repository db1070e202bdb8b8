"""The organization's node: its home on disk, its refusals, its part in a round.

Never imports server. Settings come from the signed charter and the local policy, never from a message.
"""
