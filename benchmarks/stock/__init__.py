"""What a user of Flower's examples would write: torch, PEFT, Opacus, and nothing of cotune."""
