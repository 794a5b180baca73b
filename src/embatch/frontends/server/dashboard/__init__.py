"""What people see of a running server: the page at `/`, its live data, and search over a served index."""
