"""Options, console and tables that the commands share."""
