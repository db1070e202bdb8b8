"""The configuration: Hydra groups, the schema that mirrors them, and the checks. Every default lives here."""
