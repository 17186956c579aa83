"""The architectures, and the table that names them."""
