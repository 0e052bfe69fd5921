"""The work of the commands, and what they print."""
