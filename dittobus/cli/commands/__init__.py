"""The commands, a module each: its ``app`` is what typer runs."""
