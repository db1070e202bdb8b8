"""What holds for every test: no deadline for one example of a property, since a loaded machine is not a failure."""

from hypothesis import settings

settings.register_profile("cotune", deadline=None)
settings.load_profile("cotune")
