"""``adtally dashboard``: what is stored, as web pages, read only."""
