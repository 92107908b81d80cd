"""One module per runner, and the local stack that starts the real servers."""
