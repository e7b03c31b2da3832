"""Search for settings that refute a bound."""
