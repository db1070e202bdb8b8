"""What shared noise and noise on integers ask of a strategy: what is sent is one noised gradient, as it was noised."""

from typing import Final

ONE_GRADIENT: Final = ("DPFedSGD", "RoLoRA", "FFALoRA")
"""The strategies whose contribution is what one private step gives, and nothing that was made of it."""
