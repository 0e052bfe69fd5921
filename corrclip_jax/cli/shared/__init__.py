"""Options, console, tables and progress bars that the commands share."""
