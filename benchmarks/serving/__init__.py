"""What the suites of the server share: the servers under measurement, and the clients that load them."""
