"""How a consortium comes into being and an organization joins it: homes, join requests, drafting and signing a charter.

Simulation and field call the same functions. Never imports server, client or Flower.
"""
