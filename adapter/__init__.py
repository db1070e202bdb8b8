"""The adapter without a model: names and shapes of its tensors, its forms, their basis, PEFT files. NumPy only."""
