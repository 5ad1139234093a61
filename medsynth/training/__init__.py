"""One loop for all networks, and what each of them learns by."""
