"""Indexes over any model: `Index`, what the commands `index` and `query` stand on."""
