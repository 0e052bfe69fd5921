"""What the commands do with their options, and what they print."""
