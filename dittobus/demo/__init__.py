"""``dittobus demo``: two peers in two processes, and every promise shown once, checked and timed."""
